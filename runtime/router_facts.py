"""The facts of a real service: what the router knows, and what its pipelines say when asked."""

import asyncio
from typing import TypeVar

from actors.asking import answer_of
from actors.kernel.ref import Ref
from actors.kernel.system import ActorSystem
from actors.messages import (
    READY,
    GetPipelineLoad,
    GetStageLoads,
    PipelineLoadReport,
    PipelineStatus,
    StageLoad,
    StageLoads,
)
from actors.router import RouterActor
from runtime.telemetry.facts import PipelineFacts, PlacedStage, ServiceFacts, StageFacts
from transport.codec import Message

TIMEOUT_S = 2.0
FRESH_S = 0.5
"""Facts younger than this are given again: watching must not cost what is watched."""

_M = TypeVar("_M", bound=Message)


class RouterFacts:
    """`FactSource` over a router of the same process."""

    def __init__(self, router: RouterActor, system: ActorSystem) -> None:
        self._router = router
        self._system = system
        self._asking = asyncio.Lock()
        self._known: tuple[float, ServiceFacts] | None = None

    async def facts(self) -> ServiceFacts:
        """What is known now; a pipeline that does not answer is left out."""
        async with self._asking:  # whoever holds it is done within the time-outs below
            now = asyncio.get_running_loop().time()
            if self._known is None or now - self._known[0] >= FRESH_S:
                self._known = now, await self._ask_all()
            return self._known[1]

    async def _ask_all(self) -> ServiceFacts:
        plan = self._router.plan
        if plan is None:
            return ServiceFacts()
        refs = [p.ref for p in plan.pipelines if p.ref is not None]
        async with asyncio.TaskGroup() as asking:
            asked = [asking.create_task(self._pipeline(ref)) for ref in refs]
        answers = [answer for task in asked if (answer := task.result()) is not None]
        return ServiceFacts(
            epoch=plan.epoch,
            is_ready=self._router.not_ready_reason() is None,
            num_nodes=len(plan.nodes),
            num_recoveries=self._router.num_recoveries,
            pipelines=tuple(_pipeline(*answer) for answer in answers),
            stages=tuple(_stage(loads, s) for _, loads in answers if loads for s in loads.stages),
            placed=tuple(stage for p in plan.pipelines for stage in _placed(p)),
        )

    async def _pipeline(self, ref: Ref) -> tuple[PipelineLoadReport, StageLoads | None] | None:
        load = await self._ask(ref, GetPipelineLoad(), PipelineLoadReport)
        return None if load is None else (load, await self._ask(ref, GetStageLoads(), StageLoads))

    async def _ask(self, ref: Ref, question: Message, kind: type[_M]) -> _M | None:
        return await answer_of(self._system, ref, question, kind, timeout_s=TIMEOUT_S)


def _pipeline(load: PipelineLoadReport, loads: StageLoads | None) -> PipelineFacts:
    return PipelineFacts(
        pipeline=load.pipeline,
        num_running=load.num_running,
        num_waiting=load.num_waiting,
        num_blocks=load.num_blocks,
        num_free_blocks=load.num_free_blocks,
        num_steps=load.num_steps,
        num_preemptions=load.num_preemptions,
        round_s=loads.round_s if loads is not None else None,
        num_handed_off=load.hand_offs.num_done,
        num_stayed=load.hand_offs.num_stayed,
        num_failed_hand_offs=load.hand_offs.num_failed,
        hand_off_bytes=load.hand_offs.num_bytes,
        hand_off_s=load.hand_offs.seconds,
        hand_off_saved_bytes=load.hand_offs.num_saved_bytes,
        num_present_blocks=load.hand_offs.num_present_blocks,
        hand_off_present_bytes=load.hand_offs.num_present_bytes,
        num_prefix_queries=load.num_prefix_queries,
        num_prefix_hits=load.num_prefix_hits,
    )


def _stage(loads: StageLoads, stage: StageLoad) -> StageFacts:
    return StageFacts(
        pipeline=loads.pipeline,
        stage=stage.stage,
        num_steps=stage.num_steps,
        num_stale_steps=stage.num_stale_steps,
        num_queued=stage.num_queued,
        busy_s=stage.busy_s,
        idle_s=stage.idle_s,
        resident_s=stage.resident_s,
        sent_bytes=stage.sent_bytes,
    )


def _placed(pipeline: PipelineStatus) -> list[PlacedStage]:
    return [
        PlacedStage(
            pipeline=pipeline.pipeline,
            stage=stage.stage,
            node=stage.node,
            device=stage.device,
            kv_blocks=stage.kv_blocks,
            weight_bytes=stage.weight_bytes,
            resident_bytes=stage.resident_bytes,
            is_ready=stage.state == READY,
        )
        for stage in pipeline.stages
    ]
