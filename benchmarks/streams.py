"""Streams of a service as their clients see them: when each piece came, and what it said.

All run at once for as long as a block lasts that disturbs the service meanwhile; leaving the block
waits until every stream has ended. A stream that ends before its mark is broken, and counted so.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import aiohttp

from benchmarks.load import REQUEST_TIMEOUT_S, Target

_DATA, _DONE = b"data: {", b"data: [DONE]"


@dataclass(slots=True)
class Stream:
    """One request's answer so far.

    Attributes:
        times: when each piece with text came, on the clock of `time.perf_counter`.
        text: of all pieces.
        num_tokens: that the service says it made, once it has said so.
        is_whole: whether the mark of a whole answer came.
    """

    times: list[float] = field(default_factory=list)
    text: list[str] = field(default_factory=list)
    num_tokens: int = 0
    is_whole: bool = False

    @property
    def words(self) -> list[str]:
        """The answer word by word; a token of the bench checkpoint is one word."""
        return "".join(self.text).split()

    def take(self, line: bytes, now: float) -> None:
        """A line of the answer came."""
        if line.startswith(_DONE):
            self.is_whole = True
        elif line.startswith(_DATA):
            event = json.loads(line[6:])
            self.num_tokens = (event.get("usage") or {}).get("completion_tokens", self.num_tokens)
            piece = "".join(choice.get("text", "") for choice in event.get("choices", ()))
            if piece:
                self.times.append(now)
                self.text.append(piece)


@dataclass(slots=True)
class Streams:
    """All streams of a round."""

    all: list[Stream]
    _have_begun: asyncio.Event = field(default_factory=asyncio.Event)
    _num_ended: int = 0

    @property
    def times(self) -> list[list[float]]:
        """When the pieces of each came."""
        return [stream.times for stream in self.all]

    @property
    def words(self) -> list[list[str]]:
        """What each said."""
        return [stream.words for stream in self.all]

    @property
    def num_broken(self) -> int:
        """Streams that ended before their mark."""
        return sum(not stream.is_whole for stream in self.all)

    @property
    def num_live(self) -> int:
        """Streams that have not ended."""
        return len(self.all) - self._num_ended

    async def wait_begun(self) -> float:
        """Wait until each had its first piece; when that was."""
        async with asyncio.timeout(REQUEST_TIMEOUT_S):
            await self._have_begun.wait()
        return time.perf_counter()

    def note(self) -> None:
        """Something came."""
        if all(stream.times for stream in self.all):
            self._have_begun.set()

    def note_end(self) -> None:
        """A stream ended; one that never began is waited for no longer."""
        self._num_ended += 1
        self._have_begun.set()


@asynccontextmanager
async def open_streams(target: Target, prompts: list[list[int]]) -> AsyncIterator[Streams]:
    """Have a stream for every prompt under way during the block, and all of them ended after."""
    streams = Streams([Stream() for _ in prompts])
    async with open_session() as session, asyncio.TaskGroup() as reading:
        for stream, prompt in zip(streams.all, prompts, strict=True):
            reading.create_task(_read(session, target, prompt, stream, streams))
        yield streams


def open_session() -> aiohttp.ClientSession:
    """A client without a limit of connections."""
    return aiohttp.ClientSession(
        timeout=aiohttp.ClientTimeout(total=REQUEST_TIMEOUT_S),
        connector=aiohttp.TCPConnector(limit=0),
    )


async def _read(
    session: aiohttp.ClientSession,
    target: Target,
    prompt: list[int],
    stream: Stream,
    streams: Streams,
    clock: Callable[[], float] = time.perf_counter,
) -> None:
    body = {
        "model": target.model,
        "prompt": prompt,
        "max_tokens": target.new,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    try:
        async with session.post(f"{target.url}/v1/completions", json=body) as answer:
            answer.raise_for_status()
            async for line in answer.content:
                stream.take(line, clock())
                streams.note()
    except aiohttp.ClientError:  # its mark has not come, which is what counts
        return
    finally:
        streams.note_end()
