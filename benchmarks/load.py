"""Load on a service over HTTP, as its clients make it: streamed completions of random prompts."""

import asyncio
import itertools
import json
import time
from dataclasses import dataclass, field

import aiohttp

from benchmarks.checkpoint import VOCAB_SIZE
from benchmarks.prompts import make_prompts

REQUEST_TIMEOUT_S = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Where to send requests, how many tokens each is to generate, and the ids of a prompt."""

    url: str
    model: str
    new: int
    vocab: int = VOCAB_SIZE


@dataclass(slots=True)
class Burst:
    """What a burst of requests gave.

    Attributes:
        seconds: from the first request sent to the last answer's end.
        tokens: generated, over all requests.
        first_s: when each request had its first token.
    """

    seconds: float = 0.0
    tokens: int = 0
    first_s: list[float] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """Tokens per second, end to end."""
        return self.tokens / self.seconds


async def send_burst(target: Target, prompts: list[list[int]]) -> Burst:
    """Send all prompts at once and wait for every answer.

    Raises:
        RuntimeError: an answer has not as many tokens as were asked for.
    """
    burst, began = Burst(), time.perf_counter()
    async with _session() as session, asyncio.TaskGroup() as group:
        for prompt in prompts:
            group.create_task(_complete(session, target, prompt, burst, began))
    burst.seconds = time.perf_counter() - began
    if burst.tokens != len(prompts) * target.new:
        raise RuntimeError(f"expected {len(prompts) * target.new} tokens, got {burst.tokens}")
    return burst


async def keep_busy(target: Target, concurrency: int, length: int, seconds: float) -> Burst:
    """Have so many requests under way at all times, each of a prompt of its own."""
    burst, began = Burst(), time.perf_counter()

    async def repeat(session: aiohttp.ClientSession, number: int) -> None:
        for turn in itertools.count():
            [prompt] = make_prompts(1, length, target.vocab, turn * concurrency + number)
            await _complete(session, target, prompt, burst, began)
            if time.perf_counter() - began > seconds:
                return

    async with _session() as session, asyncio.TaskGroup() as group:
        for number in range(concurrency):
            group.create_task(repeat(session, number))
    burst.seconds = time.perf_counter() - began
    return burst


def _session() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        timeout=aiohttp.ClientTimeout(total=REQUEST_TIMEOUT_S),
        connector=aiohttp.TCPConnector(limit=0),
    )


async def _complete(
    session: aiohttp.ClientSession, target: Target, prompt: list[int], burst: Burst, began: float
) -> None:
    """Stream one completion; counts the tokens that the service says it made."""
    body = {
        "model": target.model,
        "prompt": prompt,
        "max_tokens": target.new,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    has_first = False
    async with session.post(f"{target.url}/v1/completions", json=body) as answer:
        answer.raise_for_status()
        async for line in answer.content:
            if not has_first and line.startswith(b"data: {"):
                has_first = True
                burst.first_s.append(time.perf_counter() - began)
            burst.tokens += _tokens_of(line)


def _tokens_of(line: bytes) -> int:
    """The completion's tokens, where this line tells its usage; else none."""
    if not line.startswith(b"data: {"):
        return 0
    usage = json.loads(line[6:]).get("usage")
    return usage["completion_tokens"] if usage else 0
