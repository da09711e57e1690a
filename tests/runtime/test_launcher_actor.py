import asyncio
import io
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
from rich.console import Console

from actors.kernel.actor import Actor
from actors.kernel.ref import Ref
from actors.kernel.supervision import Down, DownReason
from actors.kernel.system import ActorSystem
from actors.messages import LogLine, PlanChanged, ProcessUp, Progress, Subscribe
from runtime import launcher_actor
from runtime.announcer import Announcer
from runtime.errors import LaunchFailed
from runtime.launcher_actor import LauncherActor
from runtime.network import free_port
from runtime.opening import open_system
from transport.codec import Message
from transport.endpoint import Lane
from transport.frame import Buffer

LINE = LogLine(source="b/stage-0.0", line="stage ready")
PID = 7


def plan(*missing: str, failure: str | None = None, nodes: tuple[str, ...] = ()) -> PlanChanged:
    return PlanChanged(
        epoch=1, model="demo", pipelines=(), nodes=nodes, missing=missing, failure=failure
    )


@dataclass
class Ear:
    """A launcher's actor in a system of its own, with what came of what it was told."""

    actor: LauncherActor
    system: ActorSystem
    ref: Ref
    output: io.StringIO
    failures: list[str] = field(default_factory=list)
    failed: asyncio.Event = field(default_factory=asyncio.Event)

    def tell(self, message: Message) -> None:
        self.system.tell(self.ref, message, lane=Lane.CONTROL)

    def say_up(self, role: str, pid: int = PID) -> None:
        self.tell(ProcessUp(role=role, ref=self.ref, pid=pid))

    def on_failure(self, reason: str) -> None:
        self.failures.append(reason)
        self.failed.set()

    async def failure(self) -> str:
        """The first reason for which the launch would end."""
        async with asyncio.timeout(30):
            await self.failed.wait()
        return self.failures[0]

    async def settle(self) -> None:
        """Wait until it has taken all that it was told."""
        self.actor.begin("the last", PID)
        self.say_up("the last")
        await self.actor.wait_up("the last")


@asynccontextmanager
async def listening(*, shows_other_nodes: bool = True) -> AsyncIterator[Ear]:
    output = io.StringIO()
    announcer = Announcer(Console(file=output, soft_wrap=True))
    actor = LauncherActor(
        announcer, lambda reason: ear.on_failure(reason), shows_other_nodes=shows_other_nodes
    )
    async with open_system("launcher", "127.0.0.1", 0, "t") as system:
        ear = Ear(actor, system, system.spawn(actor, name="launcher"), output)
        yield ear


class Coordinator(Actor):
    """Answers whoever subscribes with a plan, and counts them."""

    def __init__(self) -> None:
        self.num_subscribed = 0

    async def receive(
        self, message: Message, sender: Ref | None, buffers: Sequence[Buffer]
    ) -> Message | None:
        assert isinstance(message, Subscribe)
        self.num_subscribed += 1
        news = plan(f"life with {self.num_subscribed} subscribed")
        self.context.tell(message.ref, news, lane=Lane.CONTROL)
        return None


@asynccontextmanager
async def coordinating(port: int) -> AsyncIterator[tuple[Coordinator, Ref]]:
    """One life of a coordinator."""
    actor = Coordinator()
    async with open_system("coordinator", "127.0.0.1", port, "t") as system:
        yield actor, system.spawn(actor, name="coordinator")


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launcher_actor, "RETRY_S", 0.05)


# --- children


async def test_a_child_is_up_when_it_says_so() -> None:
    async with listening() as ear:
        ear.actor.begin("gateway", PID)
        ear.say_up("gateway")
        assert await ear.actor.wait_up("gateway") == ear.ref


async def test_a_child_that_does_not_come_up_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launcher_actor, "UP_TIMEOUT_S", 0.05)
    async with listening() as ear:
        with pytest.raises(LaunchFailed, match=r"the gateway did not come up in 0\.05 s"):
            await ear.actor.wait_up("gateway")


async def test_a_former_lifes_last_word_does_not_make_the_next_one_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with listening() as ear:
        ear.actor.begin("gateway", PID)
        ear.actor.end("gateway")
        ear.say_up("gateway")
        ear.actor.begin("gateway", PID + 1)
        ear.say_up("gateway")
        await ear.settle()
        monkeypatch.setattr(launcher_actor, "UP_TIMEOUT_S", 0.05)
        with pytest.raises(LaunchFailed, match="the gateway did not come up"):
            await ear.actor.wait_up("gateway")
        ear.say_up("gateway", PID + 1)
        assert await ear.actor.wait_up("gateway") == ear.ref


async def test_a_child_that_ended_is_up_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    async with listening() as ear:
        ear.actor.begin("node", PID)
        ear.say_up("node")
        await ear.actor.wait_up("node")
        ear.actor.end("node")
        monkeypatch.setattr(launcher_actor, "UP_TIMEOUT_S", 0.05)
        with pytest.raises(LaunchFailed, match="the node did not come up"):
            await ear.actor.wait_up("node")


async def test_a_life_that_hangs_as_it_starts_ends_the_launch_though_nobody_waits_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with listening() as ear:
        ear.actor.begin("up", PID)
        ear.say_up("up")
        await ear.actor.wait_up("up")
        monkeypatch.setattr(launcher_actor, "UP_TIMEOUT_S", 0.0)
        for role in ("up", "over", "followed", "hanging"):
            ear.actor.begin(role, PID)
        monkeypatch.undo()
        ear.actor.end("over")
        ear.actor.end("followed")
        ear.actor.begin("followed", PID + 1)
        assert await ear.failure() == "the hanging did not come up in 60 s"
    assert len(ear.failures) == 1


# --- the coordinator


async def test_a_coordinator_is_subscribed_to_and_known_by_its_news() -> None:
    async with listening() as ear, coordinating(0) as (coordinator, ref):
        ear.actor.follow(ref)
        assert await ear.actor.wait_coordinator() == ref
        assert coordinator.num_subscribed == 1
    assert "life with 1 subscribed" in ear.output.getvalue()


async def test_a_coordinators_next_life_at_its_address_is_found_and_subscribed_to() -> None:
    port = free_port("127.0.0.1")
    async with listening() as ear:
        async with coordinating(port) as (_, first):
            ear.actor.follow(first)
            assert await ear.actor.wait_coordinator() == first
        ear.actor.end("coordinator")
        async with coordinating(port) as (coordinator, second):
            assert await ear.actor.wait_coordinator() == second
            assert coordinator.num_subscribed == 1
        ear.actor.end("coordinator")
        async with coordinating(port) as (_, third):
            assert await ear.actor.wait_coordinator() == third
    assert len({first.incarnation, second.incarnation, third.incarnation}) == 3
    assert ear.failures == []


async def test_a_coordinator_that_fell_out_of_reach_is_subscribed_to_again() -> None:
    async with listening() as ear, coordinating(0) as (coordinator, ref):
        ear.actor.follow(ref)
        await ear.actor.wait_coordinator()
        ear.tell(Down(ref, DownReason.NO_CONNECTION, "the network was cut"))
        await ear.settle()
        assert await ear.actor.wait_coordinator() == ref
    assert coordinator.num_subscribed >= 2


async def test_a_coordinator_that_is_not_found_in_time_ends_the_launch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(launcher_actor, "LOST_TIMEOUT_S", 0.05)
    async with listening() as ear:
        ear.actor.follow(ear.system.ref("tcp://127.0.0.1:9", "coordinator"))
        expected = "the coordinator was lost, and not found again in 0.05 s"
        assert await ear.failure() == expected
        with pytest.raises(LaunchFailed, match=expected):
            await ear.actor.wait_coordinator()


@pytest.mark.parametrize("shows", [True, False])
async def test_a_service_stopped_in_order_ends_the_launchers_that_joined_it(shows: bool) -> None:
    async with listening(shows_other_nodes=shows) as ear:
        async with coordinating(0) as (_, ref):
            ear.actor.follow(ref)
            await ear.actor.wait_coordinator()
            context = ear.actor.context
            await context.ask(
                ref, Subscribe(ref=context.self_ref), timeout_s=30
            )  # behind its watch
        if shows:
            await ear.settle()
        else:
            assert await ear.failure() == "the service was stopped"
    assert bool(ear.failures) is not shows


# --- the plan


async def test_a_service_is_ready_when_nothing_is_missing() -> None:
    async with listening() as ear:
        ear.tell(plan("pipeline 0 is loading"))
        ear.tell(Progress(num_bytes=1, total_bytes=2))
        ear.tell(plan())
        assert (await ear.actor.wait_ready(30)).missing == ()
    assert "pipeline 0 is loading" in ear.output.getvalue()


async def test_a_service_that_does_not_get_ready_says_what_is_missing() -> None:
    async with listening() as ear:
        with pytest.raises(LaunchFailed, match=r"not ready after 0\.05 s: no plan"):
            await ear.actor.wait_ready(0.05)
        ear.tell(plan("waiting for node b", "waiting for node c"))
        with pytest.raises(LaunchFailed, match="waiting for node b; waiting for node c"):
            await ear.actor.wait_ready(0.2)


async def test_a_node_is_a_member_when_the_plan_lists_it() -> None:
    async with listening() as ear:
        ear.tell(plan("waiting for 1 more node", nodes=("a",)))
        with pytest.raises(LaunchFailed, match=r"node b was not taken in within 0\.05 s"):
            await ear.actor.wait_member("b", 0.05)
        ear.tell(plan(nodes=("a", "b")))
        await ear.actor.wait_member("b", 30)


async def test_a_failure_of_the_plan_ends_the_launch() -> None:
    async with listening() as ear:
        ear.tell(plan("pipeline 0 is lost", failure="stage 1 could not start"))
        assert await ear.failure() == "stage 1 could not start"


@pytest.mark.parametrize("shows", [True, False])
async def test_other_nodes_lines_are_shown_where_the_service_was_launched(shows: bool) -> None:
    async with listening(shows_other_nodes=shows) as ear:
        ear.tell(LINE)
        await ear.settle()
    assert ("b/stage-0.0 | stage ready" in ear.output.getvalue()) is shows
