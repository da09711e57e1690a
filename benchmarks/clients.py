"""Clients of a service in numbers: streams that never rest, and requests that come as they come.

A client reads every byte of its answer as it arrives and counts the tokens that the service says it
made. What is refused and what fails is counted, and never taken for an answer.
"""

import asyncio
import random
import re
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import aiohttp

from benchmarks.load import Target

_TOKENS = re.compile(rb'"completion_tokens":(\d+)')
_DONE = b"data: [DONE]"
TIMEOUT_S = 900.0

Clock = Callable[[], float]


@dataclass(slots=True)
class Tally:
    """What clients had: outcomes by name, tokens, and seconds to each first one.

    Outcomes are `whole`, `refused` (429), `status N` of others, `broken` (a stream that ended
    before its mark) and `failed` (no answer at all).
    """

    outcomes: Counter[str] = field(default_factory=Counter)
    num_offered: int = 0
    num_tokens: int = 0
    whole_tokens: int = 0
    first_s: list[float] = field(default_factory=list)

    @property
    def num_errors(self) -> int:
        """What is neither whole nor an honest refusal."""
        return sum(n for name, n in self.outcomes.items() if name not in ("whole", "refused"))


def open_session() -> aiohttp.ClientSession:
    """A client without a limit of connections."""
    return aiohttp.ClientSession(
        timeout=aiohttp.ClientTimeout(total=TIMEOUT_S), connector=aiohttp.TCPConnector(limit=0)
    )


async def stream_once(
    session: aiohttp.ClientSession, target: Target, prompt: str, tally: Tally, until: float
) -> None:
    """Have one streamed answer, or let it go when the time is over."""
    body = {
        "model": target.model,
        "prompt": prompt,
        "max_tokens": target.new,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True, "continuous_usage_stats": True},
    }
    began, tokens, is_whole = time.perf_counter(), 0, False
    try:
        async with (
            asyncio.timeout(max(0.0, until - began)),
            session.post(f"{target.url}/v1/completions", json=body) as answer,
        ):
            if answer.status != 200:
                await answer.read()
                refused = "refused" if answer.status == 429 else f"status {answer.status}"
                tally.outcomes[refused] += 1
                return
            async for line in answer.content:
                found = _TOKENS.search(line)
                if found is not None:
                    if not tokens:
                        tally.first_s.append(time.perf_counter() - began)
                    tally.num_tokens += int(found[1]) - tokens
                    tokens = int(found[1])
                is_whole = is_whole or line.startswith(_DONE)
        tally.outcomes["whole" if is_whole else "broken"] += 1
        tally.whole_tokens += tokens if is_whole else 0
    except TimeoutError:
        return  # the measurement is over: neither an answer nor an error
    except aiohttp.ClientError as error:
        tally.outcomes["broken" if tokens else f"failed {type(error).__name__}"] += 1


async def hold(target: Target, num_streams: int, seconds: float) -> list[Tally]:
    """Have so many streams under way at all times; what each of these clients had."""
    tallies = [Tally() for _ in range(num_streams)]
    until = time.perf_counter() + seconds

    async def client(session: aiohttp.ClientSession, number: int) -> None:
        turn = 0
        while time.perf_counter() < until:
            turn += 1
            await stream_once(session, target, f"The {number} {turn}", tallies[number], until)

    async with open_session() as session, asyncio.TaskGroup() as group:
        for number in range(num_streams):
            group.create_task(client(session, number))
    return tallies


async def offer(target: Target, per_s: float, seconds: float, rng: random.Random) -> Tally:
    """Send requests as a Poisson process does, whatever becomes of those before.

    Nobody is waited for longer than the time measured: what is whole by then counts.
    """
    tally, until = Tally(), time.perf_counter() + seconds
    async with open_session() as session, asyncio.TaskGroup() as group:
        number = 0
        while (left := until - time.perf_counter()) > 0:
            group.create_task(stream_once(session, target, f"The {number}", tally, until))
            number += 1
            await asyncio.sleep(min(left, rng.expovariate(per_s)))
    tally.num_offered = number
    return tally
