"""The processes that a launcher started: their lines, their lives one after another, their stop.

A role is one name and any number of lives. Until `restarts` is set, an end that nobody asked for
is the launch's own; from then on the role is started again, until its restarts are spent. Whoever
closes the children first can be sure that none begins another life behind its back.
"""

import asyncio
import random
import signal
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from actors.child_process import ChildProcess
from actors.kernel.supervision import RestartBudget, Supervision
from runtime.child import LEFT, REFUSED
from runtime.errors import RemudaError
from runtime.settings import ChildSettings, to_plain

ORDERLY_ENDS = ("exit status 0", f"exit status {LEFT}", "killed by signal 15", "killed by signal 2")
"""A child may be asked to stop before it has learnt to answer."""
LIVES = Supervision(max_restarts=5, period_s=60.0, backoff_s=0.1, max_backoff_s=5.0)
"""How often the process of a role is started again, and how soon."""

Prepare = Callable[[], Awaitable[ChildSettings]]
"""Waits for what a life needs and says how it is to begin."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildrenEvents:
    """Whom children tell of what happens to them; the first argument is the role.

    Attributes:
        on_line: a child wrote a line.
        on_started: a life has begun, as the process with this id.
        on_ended: a life is over, whoever wanted it.
        on_started_again: a role lives again, after an end that nobody asked for.
        on_final_end: a role ended by itself and is not started again; a sentence.
        on_left: a role ended because others have taken over; it is not started again.
        on_disorderly_stop: a child that was asked to stop failed; a sentence.
    """

    on_line: Callable[[str, str], None]
    on_started: Callable[[str, int], None]
    on_ended: Callable[[str], None]
    on_started_again: Callable[[str, str], None]
    on_final_end: Callable[[str], None]
    on_left: Callable[[str], None]
    on_disorderly_stop: Callable[[str], None]


@dataclass(slots=True)
class _Role:
    """One role: what is left of its restarts, and its present life if it has one."""

    name: str
    prepare: Prepare
    budget: RestartBudget
    child: ChildProcess | None = None
    is_first_life: bool = True
    is_stopping: bool = False


class Children:
    """Keeps children alive by role and ends them; an end that is not made good is reported."""

    def __init__(
        self, tasks: asyncio.TaskGroup, events: ChildrenEvents, rng: random.Random
    ) -> None:
        self._tasks = tasks
        self._events = events
        self._rng = rng
        self._roles: dict[str, _Role] = {}
        self._resting: set[asyncio.Task[None]] = set()
        self._is_closed = False
        self.restarts = False

    def keep(self, role: str, prepare: Prepare) -> None:
        """Start the child of a role, and start it again when it ends by itself."""
        kept = self._roles[role] = _Role(role, prepare, RestartBudget(LIVES))
        self._tasks.create_task(self._live(kept))

    async def _live(self, role: _Role) -> None:
        """Life after life, until one is not to be followed by another."""
        delay_s: float | None = 0.0
        ended = ""
        try:
            while delay_s is not None and not self._is_closed:
                settings = await self._rest(role, delay_s)
                ended = await self._live_once(role, settings, ended)
                delay_s = self._after(role, ended)
                role.is_first_life = False
        except RemudaError as error:  # what a life needs does not come
            self._events.on_final_end(str(error))

    async def _rest(self, role: _Role, delay_s: float) -> ChildSettings:
        """Wait until the next life can begin; `close` cancels this."""
        task = asyncio.current_task()
        assert task is not None
        self._resting.add(task)
        try:
            await asyncio.sleep(delay_s)
            return await role.prepare()
        finally:
            self._resting.discard(task)

    async def _live_once(self, role: _Role, settings: ChildSettings, before: str) -> str:
        """Begin a life and follow it; say how it ended."""
        try:
            child = role.child = await ChildProcess.start(
                "runtime.process",
                role.name,
                to_plain(settings),
                on_line=lambda line: self._events.on_line(role.name, line),
            )
        except OSError as error:
            return f"its process did not start: {error}"
        self._events.on_started(role.name, child.pid)
        if self._is_closed:  # the stop came while it was being started, and found nothing
            child.kill()
        elif not role.is_first_life:
            self._events.on_started_again(role.name, before)
        ended = await child.wait()
        role.child = None
        self._events.on_ended(role.name)
        return ended

    def _after(self, role: _Role, ended: str) -> float | None:
        """The seconds until a role's next life, or None if it was the last."""
        if role.is_stopping or self._is_closed:
            if role.is_stopping and not ended.startswith(ORDERLY_ENDS):
                self._events.on_disorderly_stop(f"the {role.name} did not stop in order: {ended}")
            return None
        by_itself = f"the {role.name} ended by itself: {ended}"
        if _has_left(ended):
            self._events.on_left(role.name)
            return None
        if not self.restarts or (role.is_first_life and _is_refusal(ended)):
            self._events.on_final_end(by_itself)
            return None
        delay_s = role.budget.spend(asyncio.get_running_loop().time(), self._rng)
        if delay_s is None:
            limit = f"{LIVES.max_restarts} restarts in {LIVES.period_s:g} s did not help"
            self._events.on_final_end(f"{by_itself}; {limit}")
        return delay_s

    def end_hung(self, role: str, pid: int, timeout_s: float) -> None:
        """End one life of a role that answers nobody; what follows is what follows any death."""
        kept = self._roles.get(role)
        if self._is_closed or kept is None or kept.child is None or kept.child.pid != pid:
            return
        self._events.on_line(role, f"did not answer for {timeout_s:g} s, and is ended (pid {pid})")
        kept.child.kill()

    def close(self) -> None:
        """Begin no other life; those that are under way go on until they are stopped."""
        self._is_closed = True
        for task in self._resting:
            task.cancel()

    async def stop(self, role: str, grace_s: float, number: int = signal.SIGTERM) -> None:
        """End the child of a role, by force after the grace; no such child is no error."""
        self.close()
        kept = self._roles.get(role)
        if kept is not None and kept.child is not None:
            kept.is_stopping = True
            await kept.child.stop(grace_s, number)

    def kill_all(self) -> None:
        """End every child at once; what they started dies with them."""
        self.close()
        for role in self._roles.values():
            if role.child is not None:
                role.is_stopping = True
                role.child.kill()


def _has_left(ended: str) -> bool:
    """Whether others have taken over what the child did."""
    return ended.partition(";")[0] == f"exit status {LEFT}"


def _is_refusal(ended: str) -> bool:
    """Whether the child said that it is not wanted, which no other life of it would change.

    A later life may be refused because its former one was not missed yet; that passes.
    """
    return ended.partition(";")[0] == f"exit status {REFUSED}"
