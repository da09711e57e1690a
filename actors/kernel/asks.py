"""Asks that wait for their outcome, and the deadline that nested asks inherit."""

import asyncio
from contextvars import ContextVar

from actors.kernel.errors import AskTimeout, Rejected
from actors.kernel.ref import Ref
from transport.codec import Message
from transport.endpoint import Peer
from transport.errors import SendQueueFull

DEADLINE: ContextVar[float | None] = ContextVar("deadline", default=None)
"""When the ask that is being handled here must be answered; on the loop's clock."""


class PendingAsk:
    """One ask without an outcome yet; `peer` is set once it was sent to another process."""

    __slots__ = ("future", "id", "peer", "ref")

    def __init__(self, id_: int, ref: Ref, future: "asyncio.Future[Message | Exception]") -> None:
        self.id = id_
        self.ref = ref
        self.peer: Peer | None = None
        self.future = future

    @property
    def is_over(self) -> bool:
        """Whether the asker has its outcome or waits no more."""
        return self.future.done()

    def settle(self, outcome: Message | Exception) -> None:
        """Give the asker what came first; later ones are of no use."""
        if not self.future.done():
            self.future.set_result(outcome)

    def fail(self, error: Exception) -> None:
        """End the ask: it could not be delivered."""
        self.settle(refusal(self.ref, error) if isinstance(error, SendQueueFull) else error)

    def expire(self) -> None:
        """End the ask: its deadline has come."""
        self.settle(AskTimeout(f"no reply from {self.ref} by the deadline"))


class Asks:
    """All asks of this process that have no outcome yet, by id."""

    def __init__(self) -> None:
        self._pending: dict[int, PendingAsk] = {}
        self._last_id = 0

    def __len__(self) -> int:
        return len(self._pending)

    def open(self, ref: Ref) -> PendingAsk:
        """Begin an ask; `close` ends it."""
        self._last_id += 1
        future = asyncio.get_running_loop().create_future()
        pending = self._pending[self._last_id] = PendingAsk(self._last_id, ref, future)
        return pending

    def close(self, pending: PendingAsk) -> None:
        """Forget an ask: whatever still comes for it is late."""
        del self._pending[pending.id]

    def settle(self, peer: Peer | None, id_: int, outcome: Message | Exception) -> bool:
        """Give an ask its outcome; False if nobody waits for it from this peer."""
        pending = self._pending.get(id_)
        if pending is None or pending.peer != peer or pending.future.done():
            return False
        pending.settle(outcome)
        return True

    def lose_peer(self, peer: Peer, error: Exception) -> None:
        """End every ask that was sent to a process that is gone."""
        for pending in self._pending.values():
            if pending.peer == peer:
                pending.fail(error)

    def fail_all(self, error: Exception) -> None:
        """End every ask: this process stops."""
        for pending in self._pending.values():
            pending.fail(error)


def refusal(ref: Ref, full: Exception) -> Rejected:
    """What the asker gets where a queue or a mailbox on this process is full."""
    rejected = Rejected(f"{ref} takes no more for now: {full}")
    rejected.__cause__ = full
    return rejected
