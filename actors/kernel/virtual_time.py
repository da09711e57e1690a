"""An event loop whose clock jumps: an hour of timers runs in as long as its callbacks take.

When nothing is ready to run, the loop moves its clock to the next timer instead of waiting for it.
So the real actors run in simulation unchanged, as long as they take all time from the loop. One
seed gives one trace: nothing outside the process is waited for, and timers due at the same instant
run in the order in which they were set.

The loop knows no sockets, signals or threads, and refuses them. The idea is the autojump clock of
Trio.
"""

import asyncio
import contextvars
import heapq
import random
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar, TypeVarTuple, Unpack

_T = TypeVar("_T")
_Ts = TypeVarTuple("_Ts")

RESOLUTION_S = 1e-9
"""Timers this close together are due at the same time."""
MIN_SWEPT = 100
"""Fewer cancelled timers are not worth looking for."""


class Deadlock(RuntimeError):
    """Nothing is ready to run and no timer is set: what is waited for can never happen."""


def run(main: Callable[[random.Random], Awaitable[_T]], *, seed: int) -> _T:
    """Run `main` to its end on a fresh virtual-time loop.

    Args:
        main: an async function; it is given the one source of chance of this run.
        seed: seeds that source.

    Raises:
        Deadlock: everything waits for something that can never happen.
    """

    async def call() -> _T:
        return await main(random.Random(seed))

    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(call())


class VirtualTimeLoop(asyncio.BaseEventLoop):
    """An event loop on virtual time, which begins at 0."""

    _ready: deque[asyncio.Handle]
    _closed: bool
    _stopping: bool

    def __init__(self) -> None:
        super().__init__()
        self._now = 0.0
        self._timers: list[tuple[float, int, _Timer]] = []
        self._last_order = 0
        self._num_cancelled = 0

    def time(self) -> float:
        """The virtual clock, in seconds."""
        return self._now

    @property
    def num_timers(self) -> int:
        """Timers that are set, and those that were cancelled and not swept yet."""
        return len(self._timers)

    def call_soon(
        self,
        callback: Callable[[Unpack[_Ts]], object],
        *args: *_Ts,
        context: contextvars.Context | None = None,
    ) -> asyncio.Handle:
        """Run a callback behind those that are ready."""
        if self._closed:
            raise RuntimeError("the event loop is closed")
        handle = _Call(callback, args, self, context)
        self._ready.append(handle)
        return handle

    def call_later(
        self,
        delay: float,
        callback: Callable[[Unpack[_Ts]], object],
        *args: *_Ts,
        context: contextvars.Context | None = None,
    ) -> asyncio.TimerHandle:
        """Set a timer for some seconds from now."""
        return self.call_at(self._now + delay, callback, *args, context=context)

    def call_at(
        self,
        when: float,
        callback: Callable[[Unpack[_Ts]], object],
        *args: *_Ts,
        context: contextvars.Context | None = None,
    ) -> asyncio.TimerHandle:
        """Set a timer; those due at the same instant run in the order of these calls."""
        if self._closed:
            raise RuntimeError("the event loop is closed")
        self._last_order += 1
        timer = _Timer(when, callback, args, self, context)
        heapq.heappush(self._timers, (when, self._last_order, timer))
        return timer

    def run_in_executor(
        self, executor: object, func: Callable[[Unpack[_Ts]], _T], *args: *_Ts
    ) -> asyncio.Future[_T]:
        """Refuse: a thread would run in real time, and end whenever it likes."""
        raise RuntimeError(f"no threads on virtual time: {func!r} was to run in an executor")

    # --- what the base class calls

    def _run_once(self) -> None:
        """Run all that is ready, or else what the next instant brings."""
        ready, timers = self._ready, self._timers
        if not ready and not self._stopping:
            self._jump()
        due = self._now + RESOLUTION_S
        while timers and timers[0][0] < due:
            ready.append(self._pop())
        for _ in range(len(ready)):
            handle = ready.popleft()
            if not handle._cancelled:
                handle._run()

    def _jump(self) -> None:
        """Move the clock to the next timer."""
        timers = self._timers
        while timers and timers[0][2]._cancelled:
            self._pop()
        if not timers:
            raise Deadlock("nothing is ready to run and no timer is set")
        self._now = max(self._now, timers[0][0])

    def _pop(self) -> "_Timer":
        timer = heapq.heappop(self._timers)[2]
        timer._scheduled = False
        self._num_cancelled -= timer._cancelled
        return timer

    def _timer_handle_cancelled(self, handle: "_Timer") -> None:
        """Cancelled timers go when they are due, or all at once when they are most of them."""
        if not handle._scheduled:
            return
        self._num_cancelled += 1
        if self._num_cancelled > max(MIN_SWEPT, len(self._timers) // 2):
            # In place: whoever runs the timers holds the list. This one is marked after the call.
            self._timers[:] = [
                entry
                for entry in self._timers
                if not entry[2]._cancelled and entry[2] is not handle
            ]
            heapq.heapify(self._timers)
            handle._scheduled = False
            self._num_cancelled = 0

    def _write_to_self(self) -> None:
        """Nobody else's thread has to wake us."""


class _Call(asyncio.Handle):
    """A callback on its way, made without what the base class does for debugging."""

    __slots__ = ()

    _callback: Any
    _context: contextvars.Context
    _loop: asyncio.AbstractEventLoop
    _repr: str | None
    _source_traceback: None

    def __init__(
        self,
        callback: Callable[..., object],
        args: Sequence[object],
        loop: asyncio.AbstractEventLoop,
        context: contextvars.Context | None,
    ) -> None:
        self._context = contextvars.copy_context() if context is None else context
        self._loop = loop
        self._callback = callback
        self._args = args
        self._cancelled = False
        self._repr = self._source_traceback = None


class _Timer(asyncio.TimerHandle):
    """The same with a time."""

    __slots__ = ()

    _callback: Any
    _context: contextvars.Context
    _loop: asyncio.AbstractEventLoop
    _repr: str | None
    _source_traceback: None
    _when: float
    _scheduled: bool

    def __init__(
        self,
        when: float,
        callback: Callable[..., object],
        args: Sequence[object],
        loop: asyncio.AbstractEventLoop,
        context: contextvars.Context | None,
    ) -> None:
        self._context = contextvars.copy_context() if context is None else context
        self._loop = loop
        self._callback = callback
        self._args = args
        self._cancelled = False
        self._repr = self._source_traceback = None
        self._when = when
        self._scheduled = True
