"""Bringing one pipeline to a plan: every stage loads at once, then the pipeline opens or goes over.

Coroutines of the coordinator's; they ask, and give back what they learnt or why it could not be.
"""

import asyncio
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field

from actors.kernel.actor import Context
from actors.kernel.errors import ActorError
from actors.kernel.ref import Ref
from actors.messages import (
    AssignStage,
    ChangeAborted,
    ChangeStages,
    ClosePipeline,
    HandedOver,
    HandOver,
    OpenPipeline,
    PipelineOpen,
    SettleEpoch,
    StageFailed,
    StageReady,
    StagesChanged,
    StageSpec,
    WeightPolicy,
)
from actors.placement import ServiceSettings
from actors.stage_change import BUSY
from scheduling.plan import PipelinePlan, StagePlan
from transport.codec import Message
from transport.errors import TransportError

LOAD_TIMEOUT_S = 1800.0
OPEN_TIMEOUT_S = 30.0
CHANGE_TIMEOUT_S = 600.0
GIVE_UP_TIMEOUT_S = 5.0
ANSWER_GRACE_S = 5.0
"""Whoever bounds its own work by the same time answers a little later."""
BUSY_RETRY_S = 0.2
ALIKE_S = 1.0
"""Stages that fail for one reason do so within this; the first of them then speaks for all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BringUp:
    """All that is needed to bring one pipeline to a plan at one epoch.

    `home` is the pipeline's actor if it has one; else one is opened on the node `head`. Of the
    workers it uses, `lost` are known to be gone. It serves at `old_epoch` until then. One that is
    opened and `takes_over` waits for what its predecessor hands it. `weights` says by worker where
    its weights come from. KV is copied until `copy_until`, on the loop's clock, if that is given.
    """

    epoch: int
    plan: PipelinePlan
    settings: ServiceSettings
    workers: Mapping[str, Ref]
    head: Ref
    home: Ref | None
    takes_over: bool
    lost: tuple[Ref, ...]
    old_epoch: int
    observer: Ref
    copy_until: float | None = None
    weights: Mapping[str, WeightPolicy] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class BroughtUp:
    """An open pipeline and what its stages hold."""

    ref: Ref
    stages: tuple[StageReady, ...]


@dataclass(frozen=True, slots=True)
class ChangedOver:
    """A pipeline that went over, what its stages hold, and how long they took to load it."""

    changed: StagesChanged
    stages: tuple[StageReady, ...]
    prepare_s: float


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


async def change_over(context: Context, wanted: BringUp) -> ChangedOver | NotBroughtUp:
    """Load what the stages lack beside what they serve, and have the pipeline go over to them."""
    assert wanted.home is not None
    began = context.loop_time()
    answers = await _load_all(context, wanted)
    prepare_s = context.loop_time() - began
    missed = [answer for answer in answers if isinstance(answer, NotBroughtUp)]
    if missed:
        await _give_up(context, wanted)
        return next((answer for answer in missed if answer.refused), missed[0])
    ready = tuple(answer for answer in answers if isinstance(answer, StageReady))
    change = ChangeStages(
        epoch=wanted.epoch,
        stages=_specs(wanted, ready),
        num_blocks=wanted.plan.num_blocks,
        lost=wanted.lost,
        deadline_s=CHANGE_TIMEOUT_S,
        copy_s=_time_left(wanted.copy_until, context.loop_time()),
    )
    try:
        answer = await _ask_for_change(context, wanted, change)
    except (ActorError, TransportError) as error:
        return NotBroughtUp(f"the pipeline did not answer: {error}", refused=False)
    if isinstance(answer, ChangeAborted):
        await _give_up(context, wanted)
        return NotBroughtUp(f"{answer.phase}: {answer.reason}", refused=False)
    assert isinstance(answer, StagesChanged)
    return ChangedOver(answer, ready, prepare_s)


def _time_left(until: float | None, now: float) -> float | None:
    return None if until is None else max(0.0, until - now)


async def _ask_for_change(context: Context, wanted: BringUp, change: ChangeStages) -> Message:
    """Have a pipeline change; one that is at another change, of an earlier life of ours, ends that.

    Raises:
        ActorError, TransportError: it did not answer.
    """
    assert wanted.home is not None
    timeout_s = CHANGE_TIMEOUT_S + ANSWER_GRACE_S
    give_up_at = context.loop_time() + wanted.settings.recovery_timeout_s
    while True:
        answer = await context.ask(wanted.home, change, timeout_s=timeout_s)
        is_busy = isinstance(answer, ChangeAborted) and answer.reason == BUSY
        if not is_busy or context.loop_time() >= give_up_at:
            return answer
        await asyncio.sleep(BUSY_RETRY_S)


async def hand_over(
    context: Context, wanted: BringUp, home: Ref, deadline_s: float
) -> BroughtUp | NotBroughtUp:
    """Open another actor over the same stages, and have the present one give it all it has."""
    opened = await bring_up(context, wanted)
    if isinstance(opened, NotBroughtUp):
        await _give_up(context, wanted)
        return opened
    order = HandOver(to=opened.ref, deadline_s=deadline_s)
    try:
        answer = await context.ask(home, order, timeout_s=deadline_s + ANSWER_GRACE_S)
        failure = answer.failure if isinstance(answer, HandedOver) else "another answer came"
    except (ActorError, TransportError) as error:
        failure = str(error)
    if failure is None:
        return opened
    context.tell(opened.ref, ClosePipeline(reason=f"nothing was handed over: {failure}"))
    await _give_up(context, wanted)
    return NotBroughtUp(failure, refused=False)


async def _give_up(context: Context, wanted: BringUp) -> None:
    """Have the workers let go of what was prepared: the pipeline never heard of it."""
    workers = [wanted.workers[stage.worker] for stage in wanted.plan.stages]
    settled = SettleEpoch(pipeline=wanted.plan.id, epoch=wanted.old_epoch, upto=wanted.epoch)
    await ask_all(context, workers, settled, timeout_s=GIVE_UP_TIMEOUT_S)


async def ask_all(
    context: Context, workers: Iterable[Ref], message: Message, *, timeout_s: float
) -> None:
    """Ask some workers something that they need not be there for."""

    async def one(worker: Ref) -> None:
        with suppress(ActorError, TransportError):
            await context.ask(worker, message, timeout_s=timeout_s)

    async with asyncio.TaskGroup() as asking:
        for worker in workers:
            asking.create_task(one(worker))


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
        answer = await context.ask(wanted.head, _opening(wanted, ready), timeout_s=OPEN_TIMEOUT_S)
    except (ActorError, TransportError) as error:
        return NotBroughtUp(f"the head node was lost while opening: {error}", refused=False)
    assert isinstance(answer, PipelineOpen)
    return BroughtUp(answer.ref, ready)


def _assignment(wanted: BringUp, stage: StagePlan) -> AssignStage:
    settings, plan = wanted.settings, wanted.plan
    is_last = stage.stage == len(plan.stages) - 1
    home = wanted.home or pipeline_ref(wanted.head, plan.id, wanted.epoch)
    following = home if is_last else wanted.workers[plan.stages[stage.stage + 1].worker]
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
        successor=following,
        home=home,
        observer=wanted.observer,
        log_bytes=settings.replay_log_bytes,
        weights=wanted.weights.get(stage.worker, WeightPolicy()),
    )


def _wire_dtype(wanted: BringUp) -> str:
    """Hidden states travel as the stages compute: in float32 if one of them is a CPU."""
    if wanted.settings.dtype != "auto":
        return wanted.settings.dtype
    return "float32" if any(s.device == "cpu" for s in wanted.plan.stages) else "bfloat16"


def _specs(wanted: BringUp, ready: tuple[StageReady, ...]) -> tuple[StageSpec, ...]:
    return tuple(
        StageSpec(
            ref=wanted.workers[stage.worker],
            start=stage.start,
            end=stage.end,
            kept_start=told.kept_start,
            kept_end=told.kept_end,
            num_logged_blocks=told.num_logged_blocks,
            keeps_log=told.keeps_log,
        )
        for stage, told in zip(wanted.plan.stages, ready, strict=True)
    )


def _opening(wanted: BringUp, ready: tuple[StageReady, ...]) -> OpenPipeline:
    settings, plan = wanted.settings, wanted.plan
    return OpenPipeline(
        epoch=wanted.epoch,
        pipeline=plan.id,
        stages=_specs(wanted, ready),
        num_blocks=plan.num_blocks,
        block_tokens=plan.block_tokens,
        max_running=settings.max_running,
        max_waiting=settings.max_waiting,
        max_step_tokens=settings.max_step_tokens,
        max_model_len=settings.max_model_len,
        step_deadline_s=settings.step_deadline_s,
        recovery_timeout_s=settings.recovery_timeout_s,
        takes_over=wanted.takes_over,
        prefix_sharing=settings.prefix_sharing,
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
