"""One place in the supervision tree: the starts of one actor, one after another.

Each child lives in one task of its system. Starts of it come and go in that task; the place is
given up when supervision says so, when it is stopped, or when its failure is handed up.
"""

import asyncio
import logging
import random
from collections.abc import Callable
from typing import Protocol

from actors.kernel.cell import Cell, End
from actors.kernel.errors import ActorFailed, RestartLimitReached
from actors.kernel.supervision import (
    DownReason,
    Restart,
    RestartBudget,
    Strategy,
    Supervision,
    Verdict,
    judge,
)

_log = logging.getLogger(__name__)

KILL_TIMEOUT_S = 1.0
"""How long a killed actor may take to notice."""


class Supervisor(Protocol):
    """Whom a failure is handed up to: an actor, or the root."""

    children: "dict[str, Child]"

    def fail(self, error: Exception) -> None:
        """Fail with the failure of a child."""
        ...


class Nursery(Protocol):
    """Where children come from: the tree."""

    rng: random.Random

    def start_task(self, child: "Child") -> "asyncio.Task[None]":
        """Run a child in a task of the system's."""
        ...

    def started(self, cell: Cell) -> None:
        """Let a new start of an actor be found by its name."""
        ...

    def given_up(self, child: "Child") -> None:
        """A child's place is free, and its name."""
        ...


class Child:
    """One supervised actor.

    `new_cell` prepares the next start. One of restart TEMPORARY is never asked for a second.
    """

    def __init__(
        self,
        name: str,
        supervisor: Supervisor,
        supervision: Supervision,
        new_cell: Callable[[], Cell],
        nursery: Nursery,
    ) -> None:
        self.name = name
        self.num_restarts = 0
        self._supervisor = supervisor
        self._supervision = supervision
        self._new_cell = new_cell
        self._nursery = nursery
        self._budget = RestartBudget(supervision)
        self._stop_requested = asyncio.Event()
        self._keeps_place = False
        self._paused: list[Child] = []
        self.cell = new_cell()
        self.cell.create()  # its failure is the spawner's; that of a later start is the start's own
        nursery.started(self.cell)
        supervisor.children[name] = self
        self._task = nursery.start_task(self)

    # --- from outside

    async def stop(self) -> None:
        """Stop in order; what does not end within its grace is killed."""
        self._stop_requested.set()
        self.cell.request_stop(DownReason.SHUTDOWN)
        await self._end_within(self._supervision.stop_grace_s)

    async def drain(self, timeout_s: float) -> bool:
        """Let the actor finish what it took, then stop it; False if it was not done in time."""
        self._stop_requested.set()
        self.cell.request_drain()
        _, alive = await asyncio.wait([self._task], timeout=timeout_s)
        if alive:
            await self.stop()
        return not alive

    async def _end_within(self, grace_s: float) -> None:
        _, alive = await asyncio.wait([self._task], timeout=grace_s)
        if alive:
            _log.warning(
                "actor did not stop in time, killed actor=%s grace_s=%g", self.name, grace_s
            )
            self.kill()
            await asyncio.wait([self._task], timeout=KILL_TIMEOUT_S)

    def kill(self) -> None:
        """End at once, without hooks."""
        self._task.cancel()

    # --- the life of a place

    async def live(self) -> None:
        """Start the actor again and again, as long as supervision says so."""
        try:
            while await self._follows(await self.cell.run()):
                pass
        finally:
            # one that ignored its killing may end after the next start has taken the place
            if not self._keeps_place and self._task is asyncio.current_task():
                self._give_up_place()

    def _give_up_place(self) -> None:
        for child in (*self._paused, self):
            del self._supervisor.children[child.name]
            self._nursery.given_up(child)

    async def _follows(self, end: End) -> bool:
        """Whether another start follows an end; if so, it is ready to run."""
        if self._stop_requested.is_set() or end.reason is DownReason.KILLED:
            return False
        match judge(self._supervision, failed=end.error is not None):
            case Verdict.LET_END:
                return False
            case Verdict.ESCALATE:
                self._hand_up(end)
                return False
            case Verdict.START_AGAIN:
                return await self._start_again(end)

    def _hand_up(self, end: End) -> None:
        failed = ActorFailed(f"actor {self.name!r} failed: {end.text}")
        failed.__cause__ = end.error
        self._supervisor.fail(failed)

    async def _start_again(self, end: End) -> bool:
        delay_s = self._budget.spend(asyncio.get_running_loop().time(), self._nursery.rng)
        if delay_s is None:
            self._supervisor.fail(self._too_often(end))
            return False
        if self._supervision.strategy is Strategy.REST_FOR_ONE:
            await self._pause_younger()
        if await self._is_stopped_within(delay_s):
            return False
        self._enter_next_cell()
        _log.warning("actor starts again actor=%s backoff_s=%.3f", self.cell.ref, delay_s)
        self._resume_paused()
        return True

    def _enter_next_cell(self) -> None:
        self.num_restarts += 1
        self.cell = self._new_cell()
        self._nursery.started(self.cell)

    def _too_often(self, end: End) -> RestartLimitReached:
        limits = self._supervision
        reached = RestartLimitReached(
            f"actor {self.name!r} ended again after {limits.max_restarts} restarts "
            f"in {limits.period_s:g} s ({end.text or end.reason})"
        )
        reached.__cause__ = end.error
        return reached

    async def _is_stopped_within(self, delay_s: float) -> bool:
        try:
            async with asyncio.timeout(delay_s):
                return await self._stop_requested.wait()
        except TimeoutError:
            return False

    # --- rest for one

    async def _pause_younger(self) -> None:
        """Stop those spawned after this one; those that can be made again keep their places."""
        siblings = list(self._supervisor.children.values())
        younger = siblings[siblings.index(self) + 1 :]
        self._paused = [child for child in younger if child._can_start_again]
        for child in self._paused:
            child._keeps_place = True
        for child in reversed(younger):
            await child.stop()

    @property
    def _can_start_again(self) -> bool:
        escalates = self._supervision.strategy is Strategy.ESCALATE
        return not escalates and self._supervision.restart is not Restart.TEMPORARY

    def _resume_paused(self) -> None:
        paused, self._paused = self._paused, []
        for child in paused:
            child._resume()

    def _resume(self) -> None:
        self._keeps_place = False
        self._stop_requested.clear()
        self._paused = []
        self._enter_next_cell()
        self._task = self._nursery.start_task(self)
