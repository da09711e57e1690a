"""The parent of one machine's processes: keeps them, speaks for them, and ends with them.

The one idea: however it ends, by a signal, a failure or a child that leaves for good, the first who
says so settles it (`outcome`), and nothing is started again from then on. It never knows what its
children are for.
"""

import asyncio
import random
import signal
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any

from actors.kernel.errors import ActorError
from actors.kernel.ref import Ref
from actors.kernel.system import ActorSystem
from runtime.announcer import Announcer
from runtime.children import Children, ChildrenEvents, Prepare
from runtime.errors import LaunchFailed
from runtime.launcher_actor import LauncherActor
from runtime.pulse import PulseWatch
from transport.errors import TransportError


class ProcessParent:
    """Children, console, and how it all ends; `tasks` holds what runs for them."""

    def __init__(self, tasks: asyncio.TaskGroup, *, is_service: bool) -> None:
        self.outcome: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()
        self.announcer = Announcer()
        self._is_service = is_service
        self.actor = LauncherActor(self.announcer, self.end, shows_other_nodes=is_service)
        events = ChildrenEvents(
            on_line=self.announcer.show_line,
            on_started=self.actor.begin,
            on_ended=self.actor.end,
            on_started_again=self.announcer.say_started_again,
            on_final_end=self.end,
            on_left=self._on_left,
            on_disorderly_stop=self.announcer.say,
        )
        self._tasks = tasks
        self.children = Children(tasks, events, random.Random())
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, self._on_signal)

    def end(self, failure: str | None) -> None:
        """Settle how it ends; the first one who says so is right."""
        self.children.close()
        if not self.outcome.done():
            self.outcome.set_result(failure)

    def say_stopping(self, failure: str | None) -> None:
        """Say it; of a stop that was asked for, the children's losing each other is no news."""
        self.announcer.say("stopping" if failure is None else "stopping after a failure")
        if failure is None:
            self.announcer.mute()

    def _on_left(self, role: str) -> None:
        """Of a service, the rest goes on; of a machine that had joined, there is no rest."""
        self.announcer.say(f"the {role} has left the cluster")
        if not self._is_service:
            self.end(None)

    def _on_signal(self) -> None:
        """The first signal stops in order, the second at once."""
        if self.outcome.done():
            self.children.kill_all()
        self.end(None)

    async def follow(self, running: Coroutine[Any, Any, None]) -> None:
        """Run until cancelled; a fault of the world settles the outcome."""
        try:
            await running
        except (LaunchFailed, TransportError, ActorError) as error:
            self.end(str(error))

    @asynccontextmanager
    async def watching(self, system: ActorSystem, timeout_s: float) -> AsyncIterator[None]:
        """End children that hang, while this is held; they are started again as if they died."""

        def on_hang(role: str, pid: int) -> None:
            self.children.end_hung(role, pid, timeout_s)

        watch = PulseWatch(system, self.actor.living, on_hang, timeout_s)
        task = self._tasks.create_task(watch.run())
        try:
            yield
        finally:
            task.cancel()

    async def start(self, role: str, prepare: Prepare) -> Ref:
        """Keep a child from now on, and wait until it says that it is up."""
        self.children.keep(role, prepare)
        return await self.actor.wait_up(role)
