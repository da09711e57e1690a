"""The way out to one disturbed peer: frames wait here for as long as the disturbance holds them.

One line for all lanes, as one cable would be: a large frame delays what comes behind it on any
lane. Each lane keeps its order and its own bounded queue, the endpoint's own bounds.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from transport.disturbance import UNDISTURBED, Pace
from transport.endpoint import Lane
from transport.errors import SendQueueFull, TransportError
from transport.frame import Frame
from transport.settings import EndpointSettings

RETRY_S = 0.02
"""How soon a frame is offered again for which the endpoint itself had no room."""

Send = Callable[[Frame, Lane], None]
"""Hands a frame to the undisturbed endpoint, which may raise `SendQueueFull` or `PeerGone`."""


@dataclass(slots=True, eq=False)
class _Held:
    """A frame that waits; it goes at `due`, in the loop's seconds."""

    frame: Frame
    num_bytes: int
    due: float


class _HeldLane:
    """What waits on one lane, the timer of its first frame, and who waits for room behind it."""

    __slots__ = ("num_bytes", "queue", "room", "timer", "turn")

    def __init__(self) -> None:
        self.queue: deque[_Held] = deque()
        self.num_bytes = 0
        self.timer: asyncio.TimerHandle | None = None
        self.room = asyncio.Event()
        self.turn = asyncio.Lock()


class DisturbedWay:
    """Holds frames to one peer back, in order, as its `pace` says.

    Args:
        send: where frames go when their time has come.
        settings: whose `queue_frames` and `queue_bytes` bound what one lane holds.
    """

    def __init__(self, send: Send, settings: EndpointSettings) -> None:
        self._send = send
        self._settings = settings
        self._loop = asyncio.get_running_loop()
        self._pace = UNDISTURBED
        self._line_free_at = 0.0
        self._lanes = tuple(_HeldLane() for _ in Lane)
        self._end: TransportError | None = None

    @property
    def is_idle(self) -> bool:
        """Whether it disturbs nothing and holds nothing."""
        return self._pace is UNDISTURBED and not any(lane.queue for lane in self._lanes)

    @property
    def num_frames(self) -> int:
        """How many frames wait here."""
        return sum(len(lane.queue) for lane in self._lanes)

    @property
    def num_bytes(self) -> int:
        """Their bytes."""
        return sum(lane.num_bytes for lane in self._lanes)

    def change(self, pace: Pace) -> None:
        """From now on be disturbed like that, what waits already included."""
        self._pace = pace
        self._line_free_at = self._loop.time()
        waiting = sorted(
            ((held.due, lane, held) for lane in Lane for held in self._lanes[lane].queue),
            key=lambda entry: (entry[0], entry[1]),
        )
        for _, _, held in waiting:
            held.due = self._due(held.num_bytes)
        for lane in Lane:
            self._pump(lane)

    def offer(self, frame: Frame, num_bytes: int, lane: Lane) -> None:
        """Take a frame on its way; raises `SendQueueFull` where too much waits already."""
        held = self._lanes[lane]
        if held.turn.locked() or not self._has_room(held, num_bytes):
            raise SendQueueFull(f"{len(held.queue)} frames of {held.num_bytes} bytes are held back")
        self._put(held, frame, num_bytes, lane)

    async def offer_waiting(
        self, frame: Frame, num_bytes: int, lane: Lane, timeout_s: float
    ) -> None:
        """As `offer`, but wait for room first; raises `TimeoutError` where none came in time."""
        held = self._lanes[lane]
        try:
            async with asyncio.timeout(timeout_s), held.turn:
                while not self._has_room(held, num_bytes):
                    held.room.clear()
                    await held.room.wait()
                self._put(held, frame, num_bytes, lane)
        except TimeoutError:
            raise TimeoutError(f"no room on the disturbed link within {timeout_s:g} s") from None

    def end(self, error: TransportError) -> int:
        """Forget what waits, and tell how many frames that were; whoever waits gets `error`."""
        num_dropped, self._end = self.num_frames, error
        for held in self._lanes:
            self._set_timer(held, None)
            held.queue.clear()
            held.num_bytes = 0
            held.room.set()
        return num_dropped

    def _has_room(self, held: _HeldLane, num_bytes: int) -> bool:
        if self._end is not None:
            raise self._end
        if not held.queue:
            return True
        settings = self._settings
        is_open = len(held.queue) < settings.queue_frames
        return is_open and held.num_bytes + num_bytes <= settings.queue_bytes

    def _put(self, held: _HeldLane, frame: Frame, num_bytes: int, lane: Lane) -> None:
        held.queue.append(_Held(frame, num_bytes, self._due(num_bytes)))
        held.num_bytes += num_bytes
        if len(held.queue) == 1:
            self._pump(lane)

    def _due(self, num_bytes: int) -> float:
        """When a frame that comes last leaves: behind the others on the line, and then later."""
        started = max(self._line_free_at, self._loop.time())
        self._line_free_at = started + num_bytes / self._pace.bytes_per_s
        return self._line_free_at + self._pace.latency_s

    def _pump(self, lane: Lane) -> None:
        """Send what is due; a cut line sends nothing, and is looked at again when it changes."""
        held = self._lanes[lane]
        self._set_timer(held, None)
        while held.queue and not self._pace.is_cut:
            first = held.queue[0]
            if first.due > self._loop.time():
                self._set_timer(held, self._loop.call_at(first.due, self._pump, lane))
                return
            try:
                self._send(first.frame, lane)
            except SendQueueFull:
                self._set_timer(held, self._loop.call_later(RETRY_S, self._pump, lane))
                return
            except TransportError:  # the peer is gone: whoever tells of it ends this way too
                return
            held.queue.popleft()
            held.num_bytes -= first.num_bytes
            held.room.set()

    def _set_timer(self, held: _HeldLane, timer: asyncio.TimerHandle | None) -> None:
        if held.timer is not None:
            held.timer.cancel()
        held.timer = timer
