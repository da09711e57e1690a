import io
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest
from rich.console import Console

from actors.kernel.ref import Ref
from actors.kernel.system import ActorSystem
from actors.messages import LogLine, PlanChanged, ProcessUp, Progress
from runtime import launcher_actor
from runtime.announcer import Announcer
from runtime.errors import LaunchFailed
from runtime.launcher_actor import LauncherActor
from runtime.opening import open_system

LINE = LogLine(source="b/stage-0.0", line="stage ready")


def plan(*missing: str, failure: str | None = None) -> PlanChanged:
    return PlanChanged(
        epoch=1, model="demo", pipelines=(), nodes=(), missing=missing, failure=failure
    )


@dataclass
class Ear:
    """A launcher's actor in a system of its own, with what came of what it was told."""

    actor: LauncherActor
    system: ActorSystem
    ref: Ref
    output: io.StringIO
    failures: list[str]


@asynccontextmanager
async def listening(*, shows_other_nodes: bool = True) -> AsyncIterator[Ear]:
    output, failures = io.StringIO(), list[str]()
    announcer = Announcer(Console(file=output, soft_wrap=True))
    actor = LauncherActor(announcer, failures.append, shows_other_nodes=shows_other_nodes)
    async with open_system("launcher", "127.0.0.1", 0, "t") as system:
        yield Ear(actor, system, system.spawn(actor, name="launcher"), output, failures)


async def test_a_child_is_up_when_it_says_so() -> None:
    async with listening() as ear:
        ear.system.tell(ear.ref, ProcessUp(role="gateway", ref=ear.ref, pid=1))
        assert await ear.actor.wait_up("gateway") == ear.ref


async def test_a_child_that_does_not_come_up_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launcher_actor, "UP_TIMEOUT_S", 0.05)
    async with listening() as ear:
        with pytest.raises(LaunchFailed, match=r"the gateway did not come up in 0\.05 s"):
            await ear.actor.wait_up("gateway")


async def test_a_service_is_ready_when_nothing_is_missing() -> None:
    async with listening() as ear:
        ear.system.tell(ear.ref, plan("pipeline 0 is loading"))
        ear.system.tell(ear.ref, Progress(num_bytes=1, total_bytes=2))
        ear.system.tell(ear.ref, plan())
        assert (await ear.actor.wait_ready(30)).missing == ()
    assert "pipeline 0 is loading" in ear.output.getvalue()


async def test_a_service_that_does_not_get_ready_says_what_is_missing() -> None:
    async with listening() as ear:
        with pytest.raises(LaunchFailed, match=r"not ready after 0\.05 s: no plan"):
            await ear.actor.wait_ready(0.05)
        ear.system.tell(ear.ref, ProcessUp(role="node", ref=ear.ref, pid=1))
        ear.system.tell(ear.ref, plan("waiting for node b", "waiting for node c"))
        with pytest.raises(LaunchFailed, match="waiting for node b; waiting for node c"):
            await ear.actor.wait_ready(0.2)


async def test_a_failure_of_the_plan_ends_the_launch() -> None:
    async with listening() as ear:
        ear.system.tell(ear.ref, plan("pipeline 0 is lost", failure="stage 1 could not start"))
        ear.system.tell(ear.ref, ProcessUp(role="after", ref=ear.ref, pid=1))
        await ear.actor.wait_up("after")
    assert ear.failures == ["stage 1 could not start"]


@pytest.mark.parametrize("shows", [True, False])
async def test_other_nodes_lines_are_shown_where_the_service_was_launched(shows: bool) -> None:
    async with listening(shows_other_nodes=shows) as ear:
        ear.system.tell(ear.ref, LINE)
        ear.system.tell(ear.ref, ProcessUp(role="after", ref=ear.ref, pid=1))
        await ear.actor.wait_up("after")
    assert ("b/stage-0.0 | stage ready" in ear.output.getvalue()) is shows
