"""The launcher's ear: children that came up, the coordinator's news, other nodes' log lines.

The coordinator may die and come back as another life of its process. So it is known by its
address, looked for whenever it falls out of reach, and its present life is the one that told us
the newest plan.
"""

import asyncio
import contextlib
from collections.abc import Callable, Sequence

import msgspec

from actors.kernel.actor import Actor
from actors.kernel.errors import ActorError
from actors.kernel.ref import ANY, Ref
from actors.kernel.supervision import Down, DownReason
from actors.messages import LogLine, PlanChanged, ProcessUp, Progress, Subscribe
from runtime.announcer import Announcer
from runtime.errors import LaunchFailed
from runtime.pulse import Life
from transport.codec import Message
from transport.errors import TransportError
from transport.frame import Buffer

UP_TIMEOUT_S = 60.0
RETRY_S = 0.5
"""How often a coordinator out of reach is looked for, and how long its answer may take."""
LOST_TIMEOUT_S = 60.0
"""A coordinator that is not back by then is not waited for any longer."""


COORDINATOR = "coordinator"


class LookNow(Message, frozen=True, tag="look_now"):
    """Begin to look for the coordinator: the actor's note to itself, never on the wire."""


class LauncherActor(Actor):
    """Turns what it is told into lines on the console and things to wait for."""

    def __init__(
        self, announcer: Announcer, on_failure: Callable[[str], None], *, shows_other_nodes: bool
    ) -> None:
        self._announcer = announcer
        self._on_failure = on_failure
        self._shows_other_nodes = shows_other_nodes
        self._pids: dict[str, int] = {}
        self._up: dict[str, Ref] = {}
        self._address: Ref | None = None
        self._coordinator: Ref | None = None
        self._is_looking = False
        self._changed = asyncio.Condition()
        self.plan: PlanChanged | None = None

    async def receive(
        self, message: Message, sender: Ref | None, buffers: Sequence[Buffer]
    ) -> Message | None:
        """Take news and wake whoever waits for it."""
        match message:
            case ProcessUp():
                self._on_up(message)
            case PlanChanged():
                self._on_plan(message, sender)
            case Progress():
                self._announcer.show_progress(message.num_bytes, message.total_bytes)
            case LogLine() if self._shows_other_nodes:
                self._announcer.show_line(message.source, message.line)
            case LookNow():
                self._look()
            case Down():
                self._on_down(message)
        async with self._changed:
            self._changed.notify_all()
        return None

    # --- children

    def begin(self, role: str, pid: int) -> None:
        """A life of a role was started; only that one can be up from now on."""
        self._pids[role] = pid
        asyncio.get_running_loop().call_later(UP_TIMEOUT_S, self._miss, role, pid)

    def end(self, role: str) -> None:
        """A life of a role is over."""
        self._pids.pop(role, None)
        self._up.pop(role, None)
        if role == COORDINATOR:
            self._coordinator = None

    def _on_up(self, up: ProcessUp) -> None:
        if self._pids.get(up.role) == up.pid:  # else it is the last word of a life that is over
            self._up[up.role] = up.ref

    def _miss(self, role: str, pid: int) -> None:
        """The time of one life to come up is over."""
        if self._pids.get(role) == pid and role not in self._up:
            self._on_failure(_not_up(role))

    def living(self) -> dict[str, Life]:
        """The children that are up."""
        return {role: Life(self._pids[role], ref.address) for role, ref in self._up.items()}

    async def wait_up(self, role: str) -> Ref:
        """Wait until a role's present life has said that it is up.

        Raises:
            LaunchFailed: it did not in time.
        """
        await self._wait(lambda: role in self._up, UP_TIMEOUT_S, lambda: _not_up(role))
        return self._up[role]

    # --- the coordinator

    def follow(self, coordinator: Ref) -> None:
        """Hear the news of a coordinator, and of every life that follows this one."""
        self._address = msgspec.structs.replace(coordinator, incarnation=ANY, generation=ANY)
        self.context.schedule(0.0, LookNow())

    def _on_plan(self, plan: PlanChanged, sender: Ref | None) -> None:
        self.plan = plan
        self._announcer.show_plan(plan)
        if sender is not None:
            self._coordinator = sender
            self.context.watch(sender)  # this life of it: if it is over already, we are told so
        if plan.failure is not None:
            self._on_failure(plan.failure)

    def _on_down(self, down: Down) -> None:
        if down.ref == self._coordinator:
            self._coordinator = None
        if down.reason is DownReason.SHUTDOWN and not self._shows_other_nodes:
            self._on_failure("the service was stopped")  # in order: nobody starts it again
        elif self._coordinator is None:
            self._look()

    def _look(self) -> None:
        if not self._is_looking and self._address is not None:
            self._is_looking = True
            self.context.start_task(self._look_for(self._address))

    async def _look_for(self, address: Ref) -> None:
        """Subscribe to whichever life of the coordinator there is, until one has told its plan."""
        deadline = self.context.loop_time() + LOST_TIMEOUT_S
        while self._coordinator is None and self.context.loop_time() < deadline:
            await self._subscribe(address)
            await asyncio.sleep(RETRY_S)
        self._is_looking = False
        if self._coordinator is None:
            self._on_failure(_lost())

    async def _subscribe(self, address: Ref) -> None:
        question = Subscribe(ref=self.context.self_ref)
        with contextlib.suppress(ActorError, TransportError):
            await self.context.ask(address, question, timeout_s=RETRY_S)

    async def wait_coordinator(self) -> Ref:
        """Wait for the coordinator's present life.

        Raises:
            LaunchFailed: there is none in time.
        """
        await self._wait(lambda: self._coordinator is not None, LOST_TIMEOUT_S, _lost)
        assert self._coordinator is not None
        return self._coordinator

    # --- the plan

    async def wait_ready(self, timeout_s: float) -> PlanChanged:
        """Wait until the coordinator says that nothing is missing.

        Raises:
            LaunchFailed: it does not in time; the text says what is missing.
        """

        def not_ready() -> str:
            missing = "; ".join(self.plan.missing) if self.plan else "no plan"
            return f"not ready after {timeout_s:g} s: {missing}"

        await self._wait(
            lambda: self.plan is not None and not self.plan.missing, timeout_s, not_ready
        )
        assert self.plan is not None
        return self.plan

    async def wait_member(self, node: str, timeout_s: float) -> None:
        """Wait until the coordinator has taken a node in.

        Raises:
            LaunchFailed: it does not in time.
        """
        await self._wait(
            lambda: self.plan is not None and node in self.plan.nodes,
            timeout_s,
            lambda: f"node {node} was not taken in within {timeout_s:g} s",
        )

    async def _wait(
        self, condition: Callable[[], bool], timeout_s: float, failure: Callable[[], str]
    ) -> None:
        try:
            async with asyncio.timeout(timeout_s), self._changed:
                await self._changed.wait_for(condition)
        except TimeoutError:
            raise LaunchFailed(failure()) from None


def _not_up(role: str) -> str:
    return f"the {role} did not come up in {UP_TIMEOUT_S:g} s"


def _lost() -> str:
    return f"the coordinator was lost, and not found again in {LOST_TIMEOUT_S:g} s"
