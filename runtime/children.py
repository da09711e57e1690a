"""The processes that a launcher started: their lines, their unexpected ends, their stop."""

import asyncio
from collections.abc import Callable

from actors.child_process import ChildProcess
from runtime.settings import ChildSettings, to_plain

ORDERLY_ENDS = ("exit status 0", "killed by signal 15")
"""A child may be asked to stop before it has learnt to answer."""


class Children:
    """Starts children by role and ends them; an end that nobody asked for is reported."""

    def __init__(
        self,
        tasks: asyncio.TaskGroup,
        on_line: Callable[[str, str], None],
        on_unexpected_end: Callable[[str], None],
        on_disorderly_stop: Callable[[str], None],
    ) -> None:
        self._tasks = tasks
        self._on_line = on_line
        self._on_unexpected_end = on_unexpected_end
        self._on_disorderly_stop = on_disorderly_stop
        self._running: dict[str, ChildProcess] = {}
        self._stopping: set[str] = set()

    async def start(self, settings: ChildSettings) -> None:
        """Start the child of a role and follow it until it ends."""
        role = settings.name
        child = await ChildProcess.start(
            "runtime.process",
            role,
            to_plain(settings),
            on_line=lambda line: self._on_line(role, line),
        )
        self._running[role] = child
        self._tasks.create_task(self._follow(role, child))

    async def _follow(self, role: str, child: ChildProcess) -> None:
        reason = await child.wait()
        del self._running[role]
        if role not in self._stopping:
            self._on_unexpected_end(f"the {role} ended by itself: {reason}")
        elif not reason.startswith(ORDERLY_ENDS):
            self._on_disorderly_stop(f"the {role} did not stop in order: {reason}")

    async def stop(self, role: str, grace_s: float) -> None:
        """End the child of a role, by force after the grace; no such child is no error."""
        self._stopping.add(role)
        if (child := self._running.get(role)) is not None:
            await child.stop(grace_s)

    def kill_all(self) -> None:
        """End every child at once; what they started dies with them."""
        self._stopping.update(self._running)
        for child in self._running.values():
            child.kill()
