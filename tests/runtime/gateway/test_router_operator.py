"""The operator of a real service: its questions to the coordinator, and what comes back."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import pytest

from actors.kernel.errors import AskTimeout
from actors.kernel.ref import Ref
from actors.messages import (
    ChangePlan,
    DrainNode,
    Generate,
    GetPipelineLoad,
    GetPlan,
    MoveRequest,
    PhaseReport,
    PlanDocument,
    PlanReport,
)
from actors.stream import Stream
from runtime.gateway.operator import LinkFault, PlanWish, Unavailable, Unsupported
from runtime.reports import Phase
from runtime.router_operator import RouterOperator
from transport.codec import Message

if TYPE_CHECKING:
    from actors.kernel.system import ActorSystem
    from actors.router import RouterActor

COORDINATOR = Ref(address="tcp://127.0.0.1:1", name="coordinator", incarnation=1)
REPORT = PlanReport(
    is_done=True,
    reason="",
    epoch=4,
    phases=(PhaseReport(phase="copy", duration_s=0.25, num_bytes=9),),
    moves=("layers 5:7",),
)


def stream(request: str, pipeline: str, attempt: int = 1) -> Stream:
    generate = Generate(
        request=request,
        token_ids=(1, 2, 3),
        max_tokens=9,
        min_tokens=0,
        stop_token_ids=(),
        temperature=0,
        top_p=1,
        top_k=0,
        min_p=0,
        seed=0,
    )
    return Stream(generate, 0.0, pipeline, attempt=attempt, delivered=[7], num_recoveries=2)


@dataclass
class FakeRouter:
    streams: tuple[Stream, ...] = ()
    plan: None = None


@dataclass
class FakeSystem:
    answer: Message | Exception = REPORT
    asked: list[Message] = field(default_factory=list)

    async def ask(self, ref: Ref, message: Message, *, timeout_s: float) -> Message:
        assert ref == COORDINATOR
        self.asked.append(message)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def operator(system: FakeSystem, *streams: Stream) -> RouterOperator:
    router = cast("RouterActor", FakeRouter(streams))
    return RouterOperator(router, cast("ActorSystem", system), COORDINATOR)


@pytest.mark.parametrize(
    ("wish", "fields"),
    [
        (PlanWish(layers="0:5,5:12"), {"layers": "0:5,5:12"}),
        (PlanWish(stages=3, pipeline="1"), {"num_stages": 3, "pipeline": "1"}),
        (PlanWish(plan={"id": "0"}, dry_run=True), {"plan": b'{"id": "0"}', "is_dry_run": True}),
    ],
)
async def test_a_wish_becomes_a_question_and_the_answer_a_report(
    wish: PlanWish, fields: dict[str, Any]
) -> None:
    system = FakeSystem()
    report = await operator(system).change_plan(wish)
    none: dict[str, Any] = {"pipeline": "", "layers": "", "num_stages": 0, "plan": b""}
    assert system.asked == [ChangePlan(**(none | {"is_dry_run": False} | fields))]
    assert (report.done, report.epoch, report.moves) == (True, 4, ("layers 5:7",))
    assert report.phases == (Phase("copy", 0.25, 9),)


async def test_a_drain_is_asked_of_the_coordinator() -> None:
    system = FakeSystem()
    assert (await operator(system).drain("a", 5.0)).done
    assert system.asked == [DrainNode(node="a", deadline_s=5.0)]


async def test_a_move_names_the_request_as_its_pipeline_knows_it() -> None:
    system = FakeSystem()
    assert (await operator(system, stream("r", "0", attempt=3)).move("r", "1")).done
    assert system.asked == [MoveRequest(request="r~3", from_pipeline="0", to_pipeline="1")]


@pytest.mark.parametrize("running", [(), (stream("other", "0"),), (stream("r", ""),)])
async def test_a_request_that_no_pipeline_has_is_not_moved(running: tuple[Stream, ...]) -> None:
    system = FakeSystem()
    report = await operator(system, *running).move("r", "1")
    assert not report.done
    assert "'r'" in report.reason
    assert system.asked == []


@pytest.mark.parametrize("answer", [AskTimeout("no answer"), GetPipelineLoad()])
async def test_a_coordinator_that_gives_no_report_makes_the_operator_unavailable(
    answer: Message | Exception,
) -> None:
    with pytest.raises(Unavailable, match="coordinator"):
        await operator(FakeSystem(answer)).drain("a", 5.0)
    with pytest.raises(Unavailable, match="coordinator"):
        await operator(FakeSystem(answer)).present_plan()


async def test_the_present_plan_is_the_coordinators() -> None:
    system = FakeSystem(PlanDocument(plan=b'{"pipelines": []}'))
    assert await operator(system).present_plan() == {"pipelines": []}
    assert system.asked == [GetPlan()]


async def test_what_the_planner_says_is_beside_the_plan() -> None:
    system = FakeSystem(PlanDocument(plan=b'{"pipelines": []}', planner=b'{"gain": 0.5}'))
    told = await operator(system).present_plan()
    assert told == {"pipelines": [], "planner": {"gain": 0.5}}


def test_requests_are_told_with_where_they_are_and_how_far() -> None:
    told = operator(FakeSystem(), stream("r", "0"), stream("held", "")).requests()
    numbers = {"prompt_tokens": 3, "delivered_tokens": 1, "recoveries": 2}
    assert told == [
        {"id": "r", "pipeline": "0", **numbers},
        {"id": "held", "pipeline": None, **numbers},
    ]


@pytest.mark.parametrize("kind", ["partition", "slow-link"])
async def test_links_stay_whole_where_the_launch_does_not_allow_it_and_the_text_says_how_to(
    kind: str,
) -> None:
    system = FakeSystem()
    with pytest.raises(Unsupported, match=r"launch it with --chaos \(cluster.chaos = true\)"):
        await operator(system).fault(LinkFault(kind=kind, a="a", b="b", for_s=1.0))
    with pytest.raises(Unsupported, match="--chaos"):
        await operator(system).fault_targets()
    assert system.asked == []


async def test_processes_that_may_not_be_killed_say_how_to_allow_it() -> None:
    with pytest.raises(Unsupported, match=r"admin\.kill=true"):
        await operator(FakeSystem()).kill("stage:0")
    assert operator(FakeSystem()).kill_targets() == []
