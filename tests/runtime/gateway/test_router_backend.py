"""The backend of a real service, over a router that says what the test wants."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import pytest

from actors.kernel.errors import AskTimeout
from actors.kernel.ref import Ref
from actors.messages import (
    ChangeStatus,
    Generate,
    GetPipelineLoad,
    HandOffCounts,
    PhaseReport,
    PipelineLoadReport,
    PipelineStatus,
    PlanChanged,
    ProcessInfo,
    StageStatus,
    TokensOf,
)
from actors.router import NoPipeline, QueueIsFull, RouterActor, StreamFailed
from actors.stream import Failed, Note, Stream
from runtime.gateway.backend import GenerationError, GenerationRequest, NotReady, Overloaded
from runtime.router_backend import RouterBackend, RouterStream

if TYPE_CHECKING:
    from actors.kernel.system import ActorSystem

REF = Ref(address="tcp://127.0.0.1:1", name="pipeline", incarnation=1)


@dataclass
class FakeRouter:
    """What `RouterBackend` calls of a router."""

    refusal: Exception | None = None
    updates: list[TokensOf | Note | Failed] = field(default_factory=list)
    plan: PlanChanged | None = None
    num_recoveries: int = 0
    opened: list[Generate] = field(default_factory=list)
    closed: list[str] = field(default_factory=list)

    def open(self, generate: Generate) -> Stream:
        if self.refusal is not None:
            raise self.refusal
        self.opened.append(generate)
        return Stream(generate, 0.0, "p0", REF)

    async def next(self, stream: Stream, timeout_s: float) -> TokensOf | Note:
        update = self.updates.pop(0)
        if isinstance(update, Failed):
            raise StreamFailed(update)
        return update

    def close(self, stream: Stream) -> None:
        self.closed.append(stream.request)

    def not_ready_reason(self) -> str | None:
        return "no plan" if self.plan is None else None


class FakeSystem:
    """One pipeline answers, the others do not."""

    async def ask(self, ref: Ref, message: GetPipelineLoad, *, timeout_s: float) -> Any:
        if ref != REF:
            raise AskTimeout(f"{ref} did not answer within {timeout_s:g} s")
        return PipelineLoadReport(
            pipeline="p0",
            num_running=1,
            num_waiting=2,
            num_free_blocks=3,
            num_blocks=4,
            num_steps=5,
            num_preemptions=6,
            hand_offs=HandOffCounts(
                num_done=7,
                num_failed=1,
                num_bytes=64,
                seconds=0.5,
                num_saved_bytes=9,
                num_present_blocks=2,
                num_present_bytes=32,
            ),
            num_prefix_queries=50,
            num_prefix_hits=40,
        )


def backend(router: FakeRouter) -> RouterBackend:
    return RouterBackend(cast("RouterActor", router), cast("ActorSystem", FakeSystem()), 1.0)


def submitted(router: FakeRouter, **options: Any) -> RouterStream:
    request = GenerationRequest(request_id="r", token_ids=(1, 2), max_tokens=3, **options)
    return backend(router).submit(request)


def tokens(*token_ids: int, reason: str | None = None) -> TokensOf:
    return TokensOf(request="r", position=0, token_ids=token_ids, finish_reason=reason)


async def test_a_stream_gives_the_tokens_and_ends_with_the_reason() -> None:
    router = FakeRouter(updates=[tokens(7, 8), tokens(9, reason="length")])
    batches = [(batch.token_ids, batch.finish_reason) async for batch in submitted(router)]
    assert batches == [((7, 8), None), ((9,), "length")]


async def test_news_of_a_stream_are_a_note_without_tokens_and_no_end() -> None:
    router = FakeRouter(updates=[Note("recovered stage=1 gap_ms=840"), tokens(9, reason="stop")])
    news, last = [batch async for batch in submitted(router)]
    assert (news.token_ids, news.finish_reason) == ((), None)
    assert news.note == "recovered stage=1 gap_ms=840"
    assert (last.token_ids, last.note) == ((9,), "")


async def test_a_stream_that_failed_says_what_kind_of_failure_it_was_and_is_over() -> None:
    stream = submitted(FakeRouter(updates=[tokens(7), Failed("stage_lost", "stage 1 was lost")]))
    await anext(stream)
    with pytest.raises(GenerationError, match="stage 1 was lost") as failed:
        await anext(stream)
    assert failed.value.kind == "stage_lost"
    with pytest.raises(StopAsyncIteration):
        await anext(stream)


async def test_a_reason_that_openai_does_not_know_is_an_error_and_no_end() -> None:
    stream = submitted(FakeRouter(updates=[tokens(7, reason="tired")]))
    with pytest.raises(GenerationError, match="tired"):
        await anext(stream)


async def test_a_closed_stream_is_cancelled_and_gives_nothing_more() -> None:
    router = FakeRouter(updates=[tokens(7)])
    stream = submitted(router)
    await stream.aclose()
    assert router.closed == ["r"]
    with pytest.raises(StopAsyncIteration):
        await anext(stream)


@pytest.mark.parametrize(
    ("refusal", "error"), [(NoPipeline("loading"), NotReady), (QueueIsFull("full"), Overloaded)]
)
def test_a_refusal_of_the_router_becomes_one_of_the_backend(
    refusal: Exception, error: type[Exception]
) -> None:
    with pytest.raises(error, match=str(refusal)):
        submitted(FakeRouter(refusal=refusal))


@pytest.mark.parametrize("seed", [0, 7, -1, -(1 << 63), (1 << 63) - 1])
def test_any_seed_fits_the_message_and_keeps_its_low_bits(seed: int) -> None:
    router = FakeRouter()
    submitted(router, seed=seed)
    assert 0 <= router.opened[0].seed < 1 << 63
    assert router.opened[0].seed % (1 << 62) == seed % (1 << 62)


async def test_the_status_before_any_plan_is_empty_and_not_ready() -> None:
    status = await backend(FakeRouter()).status()
    assert (status["ready"], status["epoch"], status["pipelines"]) == (False, 0, [])


def pipeline(name: str, ref: Ref | None, **fields: Any) -> PipelineStatus:
    limits = {"max_running": 1, "max_waiting": 1}
    wanted: dict[str, Any] = {"epoch": 3, "state": "ready", "stages": ()} | limits | fields
    return PipelineStatus(pipeline=name, ref=ref, **wanted)


def plan(*pipelines: PipelineStatus, processes: tuple[ProcessInfo, ...] = ()) -> PlanChanged:
    return PlanChanged(
        epoch=3,
        model="m",
        pipelines=pipelines,
        missing=(),
        nodes=("a",),
        failure=None,
        processes=processes,
    )


async def test_the_status_counts_the_pipelines_that_answer() -> None:
    other = Ref(address="tcp://127.0.0.1:2", name="pipeline", incarnation=1)
    pipelines = [pipeline(f"p{i}", ref) for i, ref in enumerate((REF, other, None))]
    status = await backend(FakeRouter(plan=plan(*pipelines))).status()
    assert [pipeline["id"] for pipeline in status["pipelines"]] == ["p0", "p1", "p2"]
    assert status["requests"] == {"running": 1, "waiting": 2}
    assert status["kv"] == {"free_blocks": 3, "blocks": 4}
    assert status["prefix"] == {"queries": 50, "hits": 40}
    told = {"done": 7, "stayed": 0, "failed": 1, "bytes": 64, "saved_bytes": 9, "seconds": 0.5}
    told |= {"present_blocks": 2, "present_bytes": 32}
    assert [pipeline["hand_offs"] for pipeline in status["pipelines"]] == [told, None, None]
    assert [pipeline["phase"] for pipeline in status["pipelines"]] == ["both"] * 3


async def test_the_status_names_the_processes_and_counts_the_recoveries() -> None:
    node = ProcessInfo(role="node", name="a", pid=7)
    router = FakeRouter(plan=plan(processes=(node,)), num_recoveries=5)
    status = await backend(router).status()
    assert status["processes"] == [{"role": "node", "name": "a", "pid": 7}]
    assert (status["recoveries"], status["swap"]) == (5, None)


async def test_the_status_shows_the_change_that_is_under_way() -> None:
    changing = pipeline("p0", REF, phase="copy")
    status = await backend(FakeRouter(plan=plan(changing))).status()
    assert status["swap"] == {"pipeline": "p0", "epoch": changing.epoch, "phase": "copy"}


async def test_the_status_shows_stages_and_what_the_last_change_took() -> None:
    stage = StageStatus(
        stage=0,
        node="a",
        device="cpu",
        worker="a/stage-0",
        pid=8,
        start=0,
        end=5,
        kv_blocks=16,
        weight_bytes=100,
        resident_bytes=200,
        state="ready",
    )
    change = ChangeStatus(
        epoch=3,
        cause="stage lost",
        noticed_s=0.5,
        phases=(PhaseReport(phase="copy", duration_s=0.25, num_bytes=9),),
        recomputed=0.1,
        num_preempted=2,
    )
    changed = pipeline("p0", REF, stages=(stage,), last_change=change)
    status = await backend(FakeRouter(plan=plan(changed))).status()
    (shown,) = status["pipelines"]
    assert shown["stages"][0]["layers"] == [0, 5]
    assert shown["stages"][0]["pid"] == 8
    assert shown["last_change"]["phases"] == [{"name": "copy", "seconds": 0.25, "bytes": 9}]
    assert shown["last_change"]["preempted"] == 2
