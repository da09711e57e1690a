"""The launcher's ear: children that came up, the coordinator's news, other nodes' log lines."""

import asyncio
from collections.abc import Callable, Sequence

from actors.kernel.actor import Actor
from actors.kernel.ref import Ref
from actors.messages import LogLine, PlanChanged, ProcessUp, Progress
from runtime.announcer import Announcer
from runtime.errors import LaunchFailed
from transport.codec import Message
from transport.frame import Buffer

UP_TIMEOUT_S = 60.0


class LauncherActor(Actor):
    """Turns what it is told into lines on the console and things to wait for."""

    def __init__(
        self, announcer: Announcer, on_failure: Callable[[str], None], *, shows_other_nodes: bool
    ) -> None:
        self._announcer = announcer
        self._on_failure = on_failure
        self._shows_other_nodes = shows_other_nodes
        self._up: dict[str, Ref] = {}
        self._changed = asyncio.Condition()
        self.plan: PlanChanged | None = None

    async def receive(
        self, message: Message, sender: Ref | None, buffers: Sequence[Buffer]
    ) -> Message | None:
        """Take news and wake whoever waits for it."""
        match message:
            case ProcessUp():
                self._up[message.role] = message.ref
            case PlanChanged():
                self.plan = message
                self._announcer.show_plan(message)
                if message.failure is not None:
                    self._on_failure(message.failure)
            case Progress():
                self._announcer.show_progress(message.num_bytes, message.total_bytes)
            case LogLine() if self._shows_other_nodes:
                self._announcer.show_line(message.source, message.line)
        async with self._changed:
            self._changed.notify_all()
        return None

    async def wait_up(self, role: str) -> Ref:
        """Wait until the child of a role has said that it is up."""
        try:
            async with asyncio.timeout(UP_TIMEOUT_S), self._changed:
                await self._changed.wait_for(lambda: role in self._up)
        except TimeoutError:
            raise LaunchFailed(f"the {role} did not come up in {UP_TIMEOUT_S:g} s") from None
        return self._up[role]

    async def wait_ready(self, timeout_s: float) -> PlanChanged:
        """Wait until the coordinator says that nothing is missing."""
        try:
            async with asyncio.timeout(timeout_s), self._changed:
                await self._changed.wait_for(
                    lambda: self.plan is not None and not self.plan.missing
                )
        except TimeoutError:
            missing = "; ".join(self.plan.missing) if self.plan else "no plan"
            raise LaunchFailed(f"not ready after {timeout_s:g} s: {missing}") from None
        assert self.plan is not None
        return self.plan
