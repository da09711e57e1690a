"""A node's checkpoint as others read it: pieces by tensor name, on the bulk lane, at a pace.

The shape is that of `actors/migration.py`: pieces of 2 MiB, a few under way, each checked and
written before it is acknowledged, and one answer for all. What a checkpoint is, is checked once and
kept for a while: a lease that every use renews. All reading is done off the event loop.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

from actors.kernel.actor import Context
from actors.kernel.errors import ActorError
from actors.messages import (
    MAX_REASON,
    FindWeights,
    SendWeights,
    WeightFile,
    WeightPiece,
    WeightsFound,
    WeightsSent,
    WeightsWritten,
    WriteWeights,
)
from models.errors import ModelError
from models.fingerprint import Verify
from models.weight_places import WeightPlaces
from models.weight_source import WeightSource
from transport.checksum import checksum
from transport.codec import Message
from transport.endpoint import Lane
from transport.errors import TransportError

MAX_PIECES_UNDER_WAY = 4
MAX_SOURCES = 4
PIECE_TIMEOUT_S = 30.0
LEASE_S = 120.0
LOOK_S = 0.1
"""Leases that end so close together are ended together."""

_T = TypeVar("_T")
Key = tuple[str, str, Verify]


class Run(Protocol):
    """Runs a blocking function off the event loop, after all earlier ones."""

    def __call__(self, function: Callable[[], _T]) -> Awaitable[_T]:
        """Run it."""
        ...


class LookAtLeases(Message, frozen=True, tag="look_at_leases"):
    """Which checkpoints has nobody asked for lately? The actor's note to itself."""


class NotSent(Exception):
    """A piece did not arrive; the text says which and why."""


class AsyncPace:
    """Lets bytes through at a rate, by the loop's clock; time that was not used is not saved up."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now, self._due_s = now, now()

    async def spend(self, num_bytes: int, max_bytes_per_s: float) -> None:
        """Wait until so many more bytes are due."""
        self._due_s = max(self._now(), self._due_s) + num_bytes / max_bytes_per_s
        await asyncio.sleep(self._due_s - self._now())


class Serving:
    """What one process gives of the checkpoints of its node."""

    def __init__(self, context: Context, run: Run, places: WeightPlaces) -> None:
        self._context, self._run, self._places = context, run, places
        self._sources: OrderedDict[Key, tuple[WeightSource, float]] = OrderedDict()
        self._pace = AsyncPace(context.loop_time)
        self._looks_later = False

    @property
    def num_sources(self) -> int:
        """Checkpoints that are kept open."""
        return len(self._sources)

    async def find(self, wanted: FindWeights) -> WeightsFound:
        """Whether a model is here."""
        try:
            source = await self._source((wanted.model, wanted.model_hash, wanted.verify))
        except (ModelError, OSError) as error:
            return WeightsFound(files=(), failure=str(error)[:MAX_REASON])
        files = (WeightFile(name=name, num_bytes=size) for name, size in source.files.items())
        return WeightsFound(files=tuple(files), failure=None)

    async def send(self, wanted: SendWeights) -> WeightsSent:
        """Send pieces; one answer: all of them, or why not."""
        try:
            async with asyncio.timeout(wanted.deadline_s):
                source = await self._source((wanted.model, wanted.model_hash, wanted.verify))
                await self._send_all(source, wanted)
        except TimeoutError:
            return WeightsSent(num_bytes=0, failure=f"not done within {wanted.deadline_s:g} s")
        except (NotSent, ModelError, OSError) as error:
            return WeightsSent(num_bytes=0, failure=str(error)[:MAX_REASON])
        return WeightsSent(num_bytes=sum(p.num_bytes for p in wanted.pieces), failure=None)

    def end_leases(self) -> None:
        """Let go of what nobody has asked for lately."""
        self._looks_later = False
        now = self._context.loop_time()
        for key, (_, used_at) in list(self._sources.items()):
            if now - used_at > LEASE_S - LOOK_S:
                del self._sources[key]
        self._look_later()

    def _look_later(self) -> None:
        """One reminder at a time, for whichever lease ends first."""
        if self._sources and not self._looks_later:
            self._looks_later = True
            first = min(used_at for _, used_at in self._sources.values())
            left_s = first + LEASE_S - self._context.loop_time()
            self._context.schedule(max(left_s, LOOK_S), LookAtLeases())

    async def _source(self, key: Key) -> WeightSource:
        found = self._sources.pop(key, None)
        if found is None:
            source = await self._run(lambda: self._places.source(*key))
        else:
            source = found[0]
        self._sources[key] = (source, self._context.loop_time())
        while len(self._sources) > MAX_SOURCES:
            self._sources.popitem(last=False)
        self._look_later()
        return source

    async def _send_all(self, source: WeightSource, wanted: SendWeights) -> None:
        room = asyncio.Semaphore(MAX_PIECES_UNDER_WAY)

        async def one(piece: WeightPiece) -> None:
            try:
                await self._pace.spend(piece.num_bytes, wanted.max_bytes_per_s)
                await self._send(source, wanted, piece)
            finally:
                room.release()

        try:
            async with asyncio.TaskGroup() as sending:
                for piece in wanted.pieces:
                    await room.acquire()
                    sending.create_task(one(piece))
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from None

    async def _send(self, source: WeightSource, wanted: SendWeights, piece: WeightPiece) -> None:
        def read() -> tuple[bytes, bytes]:
            data = source.read(piece.name, piece.offset, piece.num_bytes)
            return data, checksum([data])

        data, digest = await self._run(read)
        message = WriteWeights(
            transfer=wanted.transfer, name=piece.name, offset=piece.offset, checksum=digest
        )
        try:
            answer = await self._context.ask(
                wanted.target, message, buffers=(data,), lane=Lane.BULK, timeout_s=PIECE_TIMEOUT_S
            )
        except (ActorError, TransportError) as error:
            raise NotSent(f"{piece.name} did not reach {wanted.target}: {error}") from None
        if not isinstance(answer, WeightsWritten) or answer.failure is not None:
            failure = getattr(answer, "failure", "its answer was another")
            raise NotSent(f"{piece.name} was not taken by {wanted.target}: {failure}")
