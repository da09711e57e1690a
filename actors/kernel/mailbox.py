"""Where an actor's messages wait: two lanes, each first in, first out, control before data.

Each lane is bounded in messages and in bytes, so that a flood of data never keeps a cancel out.
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
    """A bounded two-lane queue with one consumer."""

    def __init__(self, limits: MailboxLimits) -> None:
        self._limits = limits
        self._control = _Queue()
        self._data = _Queue()
        self._waiter: asyncio.Future[None] | None = None

    def __len__(self) -> int:
        return len(self._control.envelopes) + len(self._data.envelopes)

    @property
    def num_bytes(self) -> int:
        """Bytes that wait in both lanes."""
        return self._control.num_bytes + self._data.num_bytes

    def put(self, envelope: Envelope, *, always: bool = False) -> None:
        """Queue a message; with `always`, past the bounds.

        Raises:
            MailboxFull: the lane holds all it may.
        """
        queue = self._control if envelope.lane == Lane.CONTROL else self._data
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
        queue = self._control if self._control.envelopes else self._data
        if not queue.envelopes:
            return None
        envelope = queue.envelopes.popleft()
        queue.num_bytes -= envelope.num_bytes
        return envelope

    async def wait(self) -> None:
        """Wait until a message is there or somebody calls `wake`; for the one consumer."""
        if len(self):
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
        queue = self._control if envelope.lane == Lane.CONTROL else self._data
        try:
            queue.envelopes.remove(envelope)
        except ValueError:
            return False
        queue.num_bytes -= envelope.num_bytes
        return True

    def drain_nowait(self) -> list[Envelope]:
        """Take all that waits, in the order in which it would have been handled."""
        left = [*self._control.envelopes, *self._data.envelopes]
        self._control, self._data = _Queue(), _Queue()
        return left
