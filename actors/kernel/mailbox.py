"""Where an actor's messages wait: a lane each for control, data and bulk, taken in that order.

A lane is first in, first out. Each is bounded in messages and in bytes, so that a flood of data
never keeps a cancel out, nor a migration a step.
One task takes; anybody on the loop puts.
"""

import asyncio
from collections import deque
from dataclasses import dataclass

from actors.kernel.envelope import Envelope
from actors.kernel.errors import MailboxFull
from transport.endpoint import Lane


@dataclass(frozen=True, slots=True, kw_only=True)
class MailboxLimits:
    """Bounds of one lane.

    A message larger than `max_bytes` is taken by an empty lane, or it could never arrive. Its bytes
    are those of its buffers and, if it came from another process, of its packed form.
    """

    max_messages: int = 4096
    max_bytes: int = 1 << 29


class _Queue:
    __slots__ = ("envelopes", "num_bytes")

    def __init__(self) -> None:
        self.envelopes: deque[Envelope] = deque()
        self.num_bytes = 0


class Mailbox:
    """Bounded queues, one a lane, with one consumer."""

    def __init__(self, limits: MailboxLimits) -> None:
        self._limits = limits
        self._lanes = tuple(_Queue() for _ in Lane)
        self._waiter: asyncio.Future[None] | None = None

    def __len__(self) -> int:
        return sum(len(queue.envelopes) for queue in self._lanes)

    @property
    def num_bytes(self) -> int:
        """Bytes that wait in all lanes."""
        return sum(queue.num_bytes for queue in self._lanes)

    def put(self, envelope: Envelope, *, always: bool = False) -> None:
        """Queue a message; with `always`, past the bounds.

        Raises:
            MailboxFull: the lane holds all it may.
        """
        queue = self._lanes[envelope.lane]
        if not always and not self._has_room(queue, envelope):
            raise MailboxFull(
                f"{len(queue.envelopes)} messages of {queue.num_bytes} bytes wait already"
            )
        queue.envelopes.append(envelope)
        queue.num_bytes += envelope.num_bytes
        self.wake()

    def _has_room(self, queue: _Queue, envelope: Envelope) -> bool:
        if not queue.envelopes:
            return True
        limits = self._limits
        fits = queue.num_bytes + envelope.num_bytes <= limits.max_bytes
        return fits and len(queue.envelopes) < limits.max_messages

    def get_nowait(self) -> Envelope | None:
        """Take the next message if there is one."""
        for queue in self._lanes:
            if queue.envelopes:
                envelope = queue.envelopes.popleft()
                queue.num_bytes -= envelope.num_bytes
                return envelope
        return None

    async def wait(self) -> None:
        """Wait until a message is there or somebody calls `wake`; for the one consumer."""
        for queue in self._lanes:
            if queue.envelopes:
                return
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def wake(self) -> None:
        """Let a waiting consumer look around."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def discard(self, envelope: Envelope) -> bool:
        """Take one message out of the middle; False if it is not here any more."""
        queue = self._lanes[envelope.lane]
        try:
            queue.envelopes.remove(envelope)
        except ValueError:
            return False
        queue.num_bytes -= envelope.num_bytes
        return True

    def drain_nowait(self) -> list[Envelope]:
        """Take all that waits, in the order in which it would have been handled."""
        left = [envelope for queue in self._lanes for envelope in queue.envelopes]
        self._lanes = tuple(_Queue() for _ in Lane)
        return left
