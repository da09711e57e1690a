"""The facts of a service, over a router and pipelines that say what the test wants."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from msgspec import structs

from actors.kernel.errors import AskTimeout
from actors.kernel.ref import Ref
from actors.messages import (
    GetPipelineLoad,
    GetStageLoads,
    HandOffCounts,
    PipelineLoadReport,
    PipelineStatus,
    PlanChanged,
    StageLoad,
    StageLoads,
)
from runtime import router_facts
from runtime.router_facts import RouterFacts
from runtime.telemetry.facts import ServiceFacts
from tests.runtime.telemetry.plans import pipeline, plan, stage
from transport.codec import Message

if TYPE_CHECKING:
    import pytest

    from actors.kernel.system import ActorSystem
    from actors.router import RouterActor

UP, DOWN = (Ref(address=f"tcp://127.0.0.1:{n}", name="p", incarnation=1) for n in (1, 2))


@dataclass
class FakeRouter:
    plan: PlanChanged | None = None
    num_recoveries: int = 4

    def not_ready_reason(self) -> str | None:
        return None if self.plan is not None else "no plan"


@dataclass
class FakeSystem:
    """The pipeline at `UP` answers; of its stages' loads only if it `knows_stages`."""

    knows_stages: bool = True
    asked: list[Message] = field(default_factory=list)

    async def ask(self, ref: Ref, message: Message, *, timeout_s: float) -> Any:
        self.asked.append(message)
        if ref != UP or (isinstance(message, GetStageLoads) and not self.knows_stages):
            raise AskTimeout(f"{ref} did not answer within {timeout_s:g} s")
        return LOADS if isinstance(message, GetStageLoads) else LOAD


LOAD = PipelineLoadReport(
    pipeline="0",
    num_running=1,
    num_waiting=2,
    num_free_blocks=3,
    num_blocks=4,
    num_steps=5,
    num_preemptions=6,
    hand_offs=HandOffCounts(
        num_done=7,
        num_stayed=8,
        num_failed=9,
        num_bytes=10,
        seconds=11.0,
        num_saved_bytes=12,
        num_present_blocks=13,
        num_present_bytes=14,
    ),
    num_prefix_queries=15,
    num_prefix_hits=16,
)
LOADS = StageLoads(
    pipeline="0",
    round_s=2.5,
    num_stages=1,
    stages=(
        StageLoad(
            stage=0,
            num_steps=5,
            num_stale_steps=0,
            num_queued=1,
            busy_s=1.0,
            idle_s=2.0,
            resident_s=1.5,
            sent_bytes=64,
        ),
    ),
)


def two_pipelines() -> PlanChanged:
    first = pipeline(stage(), name="0")
    second = pipeline(stage("w1", "lost"), name="1")
    return plan(*(_at(p, ref) for p, ref in ((first, UP), (second, DOWN))), nodes=("a", "b"))


def _at(status: PipelineStatus, ref: Ref) -> PipelineStatus:
    return structs.replace(status, ref=ref)


def facts_of(router: FakeRouter, system: FakeSystem) -> RouterFacts:
    return RouterFacts(cast("RouterActor", router), cast("ActorSystem", system))


async def test_before_a_plan_nothing_is_known_and_nobody_asked() -> None:
    system = FakeSystem()
    assert await facts_of(FakeRouter(), system).facts() == ServiceFacts()
    assert system.asked == []


async def test_who_answers_is_told_of_and_who_does_not_is_left_out() -> None:
    found = await facts_of(FakeRouter(two_pipelines()), FakeSystem()).facts()
    assert (found.num_nodes, found.num_recoveries, found.is_ready) == (2, 4, True)
    (load,) = found.pipelines
    assert (load.pipeline, load.num_running, load.num_preemptions, load.round_s) == ("0", 1, 6, 2.5)
    counts = (load.num_handed_off, load.num_stayed, load.num_failed_hand_offs)
    assert (*counts, load.hand_off_bytes, load.hand_off_s) == (7, 8, 9, 10, 11.0)
    assert load.hand_off_saved_bytes == 12
    assert (load.num_present_blocks, load.hand_off_present_bytes) == (13, 14)
    assert (load.num_prefix_queries, load.num_prefix_hits) == (15, 16)
    (only,) = found.stages
    assert (only.pipeline, only.stage, only.busy_s, only.sent_bytes) == ("0", 0, 1.0, 64)
    assert [(p.pipeline, p.is_ready) for p in found.placed] == [("0", True), ("1", False)]


async def test_without_its_stages_a_pipeline_tells_what_it_knows_itself() -> None:
    found = await facts_of(FakeRouter(two_pipelines()), FakeSystem(knows_stages=False)).facts()
    assert [(p.num_steps, p.round_s) for p in found.pipelines] == [(5, None)]
    assert found.stages == ()


async def test_facts_that_are_fresh_are_not_asked_for_again(
    monkeypatch: "pytest.MonkeyPatch",
) -> None:
    system = FakeSystem()
    source = facts_of(FakeRouter(two_pipelines()), system)
    monkeypatch.setattr(router_facts, "FRESH_S", 3600.0)
    first = await source.facts()
    num_asked = len(system.asked)
    assert await source.facts() is first
    assert len(system.asked) == num_asked
    monkeypatch.setattr(router_facts, "FRESH_S", 0.0)
    await source.facts()
    assert [type(m) for m in system.asked].count(GetPipelineLoad) == 4
