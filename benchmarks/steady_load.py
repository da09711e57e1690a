"""A steady load: so many streams at all times, and what their clients saw in a window of it."""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import count
from statistics import median
from typing import TypeVar

import aiohttp

from benchmarks.load import Target
from benchmarks.prompts import make_prompts
from benchmarks.streams import Stream, open_session

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class SteadyLoad:
    """`streams` requests under way at all times, each of `prompt` tokens and `new` generated.

    Units: `warm_s` seconds before the window, `window_s` seconds of it.
    """

    streams: int
    prompt: int
    new: int
    warm_s: float
    window_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What clients saw: tokens a second, and the median seconds a token of a whole stream."""

    tokens_per_s: float
    tpot_s: float


async def keep_steady(
    target: Target,
    load: SteadyLoad,
    at_end: Callable[[], _T],
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[Seen, _T]:
    """Load a service; what was seen in the window, and what `at_end` found while it was loaded.

    Lengths are spread at first, so that streams do not all begin and end at once for ever.

    Raises:
        RuntimeError: a stream broke off, or none ended within the window.
    """
    begin = clock() + load.warm_s
    streams: list[Stream] = []

    async def repeat(session: aiohttp.ClientSession, number: int) -> None:
        for turn in count():
            new = load.new if turn else max(1, load.new * (number + 1) // load.streams)
            seed = turn * load.streams + number
            [prompt] = make_prompts(1, load.prompt, target.vocab, seed)
            streams.append(stream := Stream())
            await _read(session, replace(target, new=new), prompt, stream, clock)

    async with open_session() as session, asyncio.TaskGroup() as group:
        tasks = [group.create_task(repeat(session, number)) for number in range(load.streams)]
        await asyncio.sleep(load.warm_s + load.window_s)
        found = await asyncio.to_thread(at_end)
        for task in tasks:
            task.cancel()
    return seen(streams, begin, begin + load.window_s), found


def seen(streams: Sequence[Stream], begin: float, end: float) -> Seen:
    """What came of some streams from `begin` to `end`.

    Raises:
        RuntimeError: none of them ended in that time.
    """
    num_tokens, tpots = 0, []
    for stream in streams:
        pieces = zip(stream.times, stream.text, strict=True)
        times = [at for at, piece in pieces for _ in piece.split()]
        num_tokens += sum(begin <= at < end for at in times)
        if stream.is_whole and len(times) > 1 and begin <= times[-1] < end:
            tpots.append((times[-1] - times[0]) / (len(times) - 1))
    if not tpots:
        raise RuntimeError(f"no stream ended within {end - begin:g} s; make the window longer")
    return Seen(tokens_per_s=num_tokens / (end - begin), tpot_s=median(tpots))


async def _read(
    session: aiohttp.ClientSession,
    target: Target,
    prompt: list[int],
    stream: Stream,
    clock: Callable[[], float],
) -> None:
    body = {
        "model": target.model,
        "prompt": prompt,
        "max_tokens": target.new,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
    }
    async with session.post(f"{target.url}/v1/completions", json=body) as answer:
        answer.raise_for_status()
        async for line in answer.content:
            stream.take(line, clock())
    if not stream.is_whole:
        raise RuntimeError("a stream broke off before its end")
