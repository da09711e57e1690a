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
from collections.abc import Awaitable, Callable
from typing import TypeVar, TypeVarTuple, Unpack, cast

_T = TypeVar("_T")
_Ts = TypeVarTuple("_Ts")


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

    _scheduled: "list[_Timer]"
    _clock_resolution: float

    def __init__(self) -> None:
        super().__init__()
        self._clock_resolution = 1e-9  # the base class runs whatever is due within it
        self._num_timers = 0
        self._selector = _Clock()  # the base class calls `select` where it would wait

    def time(self) -> float:
        """The virtual clock, in seconds."""
        return self._selector.now

    def call_at(
        self,
        when: float,
        callback: Callable[[Unpack[_Ts]], object],
        *args: *_Ts,
        context: contextvars.Context | None = None,
    ) -> asyncio.TimerHandle:
        """Set a timer; those due at the same instant run in the order of these calls."""
        self._num_timers += 1
        timer = _Timer(when, callback, args, self, context)
        timer.order = self._num_timers
        heapq.heappush(self._scheduled, timer)
        timer._scheduled = True
        return timer

    def run_in_executor(
        self, executor: object, func: Callable[[Unpack[_Ts]], _T], *args: *_Ts
    ) -> asyncio.Future[_T]:
        """Refuse: a thread would run in real time, and end whenever it likes."""
        raise RuntimeError(f"no threads on virtual time: {func!r} was to run in an executor")

    def _process_events(self, event_list: list[object]) -> None:
        """Nothing outside the process ever happens."""

    def _write_to_self(self) -> None:
        """Nobody else's thread has to wake us."""


class _Timer(asyncio.TimerHandle):
    """A timer that knows its place among those of the same instant."""

    __slots__ = ("order",)

    order: int
    _scheduled: bool

    def __lt__(self, other: asyncio.TimerHandle) -> bool:
        order = cast("_Timer", other).order  # the loop holds no others
        return (self.when(), self.order) < (other.when(), order)


class _Clock:
    """Stands where a selector would: to wait is to move the time on."""

    def __init__(self) -> None:
        self.now = 0.0

    def select(self, timeout: float | None) -> list[object]:
        """Let `timeout` seconds pass; no event ever comes."""
        if timeout is None:
            raise Deadlock("nothing is ready to run and no timer is set")
        self.now += timeout
        return []

    def close(self) -> None:
        """Nothing is held."""
