"""Bringing one pipeline up: every stage loads at once, then the pipeline opens on its head node.

A coroutine of the coordinator's; it asks, and gives back what it learnt or why it could not.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

from actors.kernel.actor import Context
from actors.kernel.errors import ActorError
from actors.kernel.ref import Ref
from actors.messages import (
    AssignStage,
    OpenPipeline,
    PipelineOpen,
    StageFailed,
    StageReady,
)
from actors.placement import ServiceSettings
from scheduling.plan import PipelinePlan, StagePlan
from transport.errors import TransportError

LOAD_TIMEOUT_S = 1800.0
OPEN_TIMEOUT_S = 30.0
ALIKE_S = 1.0
"""Stages that fail for one reason do so within this; the first of them then speaks for all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BringUp:
    """All that is needed to bring one pipeline up at one epoch."""

    epoch: int
    plan: PipelinePlan
    settings: ServiceSettings
    workers: Mapping[str, Ref]
    head: Ref
    observer: Ref


@dataclass(frozen=True, slots=True)
class BroughtUp:
    """An open pipeline and what its stages hold."""

    ref: Ref
    stages: tuple[StageReady, ...]


@dataclass(frozen=True, slots=True)
class NotBroughtUp:
    """Why a pipeline did not come up; `refused` if a stage itself said it cannot."""

    reason: str
    refused: bool


async def bring_up(context: Context, wanted: BringUp) -> BroughtUp | NotBroughtUp:
    """Load all stages side by side and open the pipeline over them."""
    answers = await _load_all(context, wanted)
    missed = [answer for answer in answers if isinstance(answer, NotBroughtUp)]
    if missed:
        return next((answer for answer in missed if answer.refused), missed[0])
    ready = tuple(answer for answer in answers if isinstance(answer, StageReady))
    return await _open(context, wanted, ready)


async def _load_all(context: Context, wanted: BringUp) -> list[StageReady | NotBroughtUp]:
    """What the stages answer, in their order; one that cannot load ends the wait for the others."""
    answers: dict[int, StageReady | NotBroughtUp] = {}

    async def load(stage: StagePlan) -> None:
        answer = answers[stage.stage] = await _load(context, wanted, stage)
        if isinstance(answer, NotBroughtUp) and patience.when() is None:
            patience.reschedule(context.loop_time() + ALIKE_S)

    try:
        async with asyncio.timeout(None) as patience, asyncio.TaskGroup() as loading:
            for stage in wanted.plan.stages:
                loading.create_task(load(stage))
    except TimeoutError:
        pass
    return [answers[number] for number in sorted(answers)]


async def _load(context: Context, wanted: BringUp, stage: StagePlan) -> StageReady | NotBroughtUp:
    where = f"stage {stage.stage} on node {stage.node}"
    worker = wanted.workers[stage.worker]
    try:
        answer = await context.ask(worker, _assignment(wanted, stage), timeout_s=LOAD_TIMEOUT_S)
    except (ActorError, TransportError) as error:
        return NotBroughtUp(f"{where} was lost while loading: {error}", refused=False)
    if isinstance(answer, StageFailed):
        return NotBroughtUp(f"{where} could not start: {answer.reason}", refused=True)
    assert isinstance(answer, StageReady)
    return answer


async def _open(
    context: Context, wanted: BringUp, ready: tuple[StageReady, ...]
) -> BroughtUp | NotBroughtUp:
    try:
        answer = await context.ask(wanted.head, _opening(wanted), timeout_s=OPEN_TIMEOUT_S)
    except (ActorError, TransportError) as error:
        return NotBroughtUp(f"the head node was lost while opening: {error}", refused=False)
    assert isinstance(answer, PipelineOpen)
    return BroughtUp(answer.ref, ready)


def _assignment(wanted: BringUp, stage: StagePlan) -> AssignStage:
    settings, plan = wanted.settings, wanted.plan
    is_last = stage.stage == len(plan.stages) - 1
    following = None if is_last else wanted.workers[plan.stages[stage.stage + 1].worker]
    return AssignStage(
        epoch=wanted.epoch,
        pipeline=plan.id,
        stage=stage.stage,
        model=settings.model,
        model_hash=settings.model_hash,
        start=stage.start,
        end=stage.end,
        dtype=settings.dtype,
        wire_dtype=_wire_dtype(wanted),
        num_blocks=plan.num_blocks,
        block_tokens=plan.block_tokens,
        successor=following or pipeline_ref(wanted.head, plan.id, wanted.epoch),
        observer=wanted.observer,
    )


def _wire_dtype(wanted: BringUp) -> str:
    """Hidden states travel as the stages compute: in float32 if one of them is a CPU."""
    if wanted.settings.dtype != "auto":
        return wanted.settings.dtype
    return "float32" if any(s.device == "cpu" for s in wanted.plan.stages) else "bfloat16"


def _opening(wanted: BringUp) -> OpenPipeline:
    settings, plan = wanted.settings, wanted.plan
    return OpenPipeline(
        epoch=wanted.epoch,
        pipeline=plan.id,
        stages=tuple(wanted.workers[stage.worker] for stage in plan.stages),
        num_blocks=plan.num_blocks,
        block_tokens=plan.block_tokens,
        max_running=settings.max_running,
        max_waiting=settings.max_waiting,
        max_step_tokens=settings.max_step_tokens,
        max_model_len=settings.max_model_len,
        step_deadline_s=settings.step_deadline_s,
    )


def pipeline_name(pipeline: str, epoch: int) -> str:
    """The name of a pipeline's actor: one life, one epoch, one name."""
    return f"pipeline-{pipeline}-{epoch}"


def pipeline_ref(head: Ref, pipeline: str, epoch: int) -> Ref:
    """Where a pipeline's actor will be on its head node, before it is there."""
    return Ref(
        address=head.address,
        incarnation=head.incarnation,
        name=pipeline_name(pipeline, epoch),
        generation=0,
    )
