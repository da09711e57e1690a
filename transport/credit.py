"""Backpressure: a sender spends credit that the receiver grants, in frames and in bytes.

A `SendWindow` is one lane to one peer as its sender sees it: the credit left, and the bounded
queue of what waits for more. A `ReceiveWindow` is the other end: what it granted, and what was
released since, given back in batches of a quarter window, so that a sender never stands still
and frames do not each cost an answer. Nothing is ever sent past the grant but the last bytes of
one frame: a lane is open while at least one byte of credit is left.

Both are plain bookkeeping and know neither sockets nor peers.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from transport.errors import SendQueueFull, TransportError
from transport.frame import Frame


@dataclass(slots=True, eq=False)
class Waiting:
    """A frame that waits for credit, and the sender that waits with it, if any does."""

    frame: Frame
    num_bytes: int
    sent: "asyncio.Future[None] | None" = None


class SendWindow:
    """One lane to one peer, as its sender sees it; without credit until the first `grant`."""

    __slots__ = (
        "_credit_bytes",
        "_credit_frames",
        "_failure",
        "_max_bytes",
        "_max_frames",
        "_put_out",
        "_queue",
        "num_queued",
        "num_queued_bytes",
    )

    def __init__(
        self, put_out: Callable[[Frame, int], None], *, max_frames: int, max_bytes: int
    ) -> None:
        """`put_out(frame, num_bytes)` hands a frame to the wire."""
        self._put_out = put_out
        self._max_frames = max_frames
        self._max_bytes = max_bytes
        self._credit_frames = 0
        self._credit_bytes = 0
        self._queue: deque[Waiting] = deque()
        self._failure: TransportError | None = None
        self.num_queued = 0
        self.num_queued_bytes = 0

    @property
    def is_empty(self) -> bool:
        """Whether nothing waits for credit."""
        return not self._queue

    def offer(self, frame: Frame, num_bytes: int) -> None:
        """Put a frame out, or queue it; raises `SendQueueFull` where the queue is full."""
        if self._failure is not None:
            raise self._failure
        if not self._queue and self._has_credit():
            self._spend(frame, num_bytes)
        elif self.num_queued >= self._max_frames or (
            self.num_queued_bytes + num_bytes > self._max_bytes
        ):
            raise SendQueueFull(
                f"{self.num_queued} frames of {self.num_queued_bytes} bytes wait for credit"
            )
        else:
            self._queue.append(Waiting(frame, num_bytes))
            self.num_queued += 1
            self.num_queued_bytes += num_bytes

    def offer_waiting(self, frame: Frame, num_bytes: int) -> "Waiting | None":
        """Put a frame out, or take a place in the queue whose `sent` tells when it went."""
        if self._failure is not None:
            raise self._failure
        if not self._queue and self._has_credit():
            self._spend(frame, num_bytes)
            return None
        waiting = Waiting(frame, num_bytes, asyncio.get_running_loop().create_future())
        self._queue.append(waiting)
        return waiting

    def withdraw(self, waiting: Waiting) -> None:
        """Give up a place in the queue; nothing happens if the frame is gone already."""
        if waiting in self._queue:
            self._queue.remove(waiting)

    def grant(self, num_frames: int, num_bytes: int) -> None:
        """Add credit, and put out what waited for it."""
        self._credit_frames += num_frames
        self._credit_bytes += num_bytes
        while self._queue and self._has_credit():
            waiting = self._queue.popleft()
            self._forget(waiting)
            if waiting.sent is None:
                self._spend(waiting.frame, waiting.num_bytes)
            elif not waiting.sent.done():  # else its sender gave up and has yet to run
                self._spend(waiting.frame, waiting.num_bytes)
                waiting.sent.set_result(None)

    def fail(self, error: TransportError) -> int:
        """Nothing goes out any more; returns the number of queued frames that were dropped."""
        self._failure = error
        num_dropped = self.num_queued
        while self._queue:
            waiting = self._queue.popleft()
            self._forget(waiting)
            if waiting.sent is not None and not waiting.sent.done():
                waiting.sent.set_exception(error)
                waiting.sent.exception()  # not every frame has a sender who waits for it
        return num_dropped

    def _has_credit(self) -> bool:
        return self._credit_frames > 0 and self._credit_bytes > 0

    def _spend(self, frame: Frame, num_bytes: int) -> None:
        self._credit_frames -= 1
        self._credit_bytes -= num_bytes
        self._put_out(frame, num_bytes)

    def _forget(self, waiting: Waiting) -> None:
        if waiting.sent is None:
            self.num_queued -= 1
            self.num_queued_bytes -= waiting.num_bytes


async def wait_sent(window: SendWindow, waiting: Waiting, timeout_s: float) -> None:
    """Wait until a frame left its window.

    Raises:
        TimeoutError: no credit came within `timeout_s`; the frame was not sent.
        PeerGone: the peer was lost meanwhile.
    """
    sent = waiting.sent
    if sent is None:
        return
    loop = asyncio.get_running_loop()
    # A timer of our own instead of asyncio.timeout: it cannot fire after the frame went.
    timer = loop.call_later(timeout_s, _expire, sent, timeout_s)
    try:
        await sent
    finally:
        timer.cancel()
        window.withdraw(waiting)


def _expire(sent: "asyncio.Future[None]", timeout_s: float) -> None:
    if not sent.done():
        sent.set_exception(TimeoutError(f"no credit within {timeout_s:g} s"))


class ReceiveWindow:
    """One lane from one peer, as its receiver sees it."""

    __slots__ = (
        "_batch_bytes",
        "_batch_frames",
        "_give_back",
        "_left_bytes",
        "_left_frames",
        "_owed_bytes",
        "_owed_frames",
    )

    def __init__(
        self, give_back: Callable[[int, int], None], *, num_frames: int, num_bytes: int
    ) -> None:
        """`give_back(num_frames, num_bytes)` tells the sender of new credit."""
        self._give_back = give_back
        self._left_frames = num_frames
        self._left_bytes = num_bytes
        self._batch_frames = max(1, num_frames // 4)
        self._batch_bytes = max(1, num_bytes // 4)
        self._owed_frames = 0
        self._owed_bytes = 0

    def take(self, num_bytes: int) -> "Release | None":
        """Account for a frame that came; None if the sender had no credit for it."""
        if self._left_frames <= 0 or self._left_bytes <= 0:
            return None
        self._left_frames -= 1
        self._left_bytes -= num_bytes
        return Release(self, num_bytes)

    def release(self, num_bytes: int) -> None:
        """A frame was consumed; credit goes back once enough of it is owed."""
        self._owed_frames += 1
        self._owed_bytes += num_bytes
        if self._owed_frames >= self._batch_frames or self._owed_bytes >= self._batch_bytes:
            num_frames, num_owed = self._owed_frames, self._owed_bytes
            self._owed_frames = self._owed_bytes = 0
            self._left_frames += num_frames
            self._left_bytes += num_owed
            self._give_back(num_frames, num_owed)


class Release:
    """Returns the credit of one frame, once, however often it is called."""

    __slots__ = ("_num_bytes", "_window")

    def __init__(self, window: ReceiveWindow, num_bytes: int) -> None:
        self._window: ReceiveWindow | None = window
        self._num_bytes = num_bytes

    def __call__(self) -> None:
        """Give the credit back."""
        window, self._window = self._window, None
        if window is not None:
            window.release(self._num_bytes)
