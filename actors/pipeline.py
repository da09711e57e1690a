"""The owner of every request in one pipeline: it forms steps and hands out their tokens.

All that a sequence is (tokens, block table, sampling position) lives in this actor's batcher. The
stages keep nothing of it, so a step is a message out to the first stage and one back from the last,
and stages can change under the requests: it says so to its coordinator when one is lost, holds its
requests, and goes on over those it is given. It never knows text, HTTP or which process a stage is.
"""

import asyncio
import logging
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from typing import TypeAlias

import numpy as np

from actors.attention import Attention, Excuses
from actors.hand_offs import HandOffs
from actors.kernel.actor import Actor, LaterReply
from actors.kernel.errors import ActorError
from actors.kernel.ref import Ref
from actors.kernel.supervision import Down
from actors.messages import (
    OUT_OF_REACH,
    AreYouThere,
    BlocksReserved,
    Cancel,
    ChangeAborted,
    ChangePhase,
    ChangeStages,
    ClosePipeline,
    ExtendLease,
    Fence,
    Generate,
    GetPipelineLoad,
    GetPipelineStages,
    GetStageLoad,
    GetStageLoads,
    HandedOver,
    HandOffTo,
    HandOver,
    MoveOut,
    OpenPipeline,
    PipelineDegraded,
    PipelineLoadReport,
    PipelineLost,
    PipelineShort,
    PipelineStages,
    Recovered,
    ReleaseBlocks,
    ReplayDone,
    RequestFailed,
    ReserveBlocks,
    SequenceState,
    SettleEpoch,
    StageLoad,
    StageLoads,
    StageSpec,
    StepOutput,
    StreamsMoved,
    SuccessorLost,
    TakenOver,
    TakeOver,
    Taker,
    Tokens,
    TokensOf,
)
from actors.migration import block_ids
from actors.request_moves import hand_over, move_out, num_blocks_to_move, sequence_of
from actors.reservations import Reservations
from actors.stage_change import BUSY, ChangeFailed, change_stages
from actors.step_ring import StepRing
from scheduling.batcher import Output
from scheduling.errors import QueueFull, SchedulingError
from transport.codec import Message
from transport.endpoint import Lane
from transport.errors import TransportError
from transport.frame import Buffer

_log = logging.getLogger(__name__)

MAX_REASON = 4096
FIND_TIMEOUT_S = 2.0
LOAD_TIMEOUT_S = 1.0
ROOM_INTERVAL_S = 0.25
"""How often a pipeline looks whether its blocks last."""
NO_TOKEN_REASON = "its grammar and its other bounds leave no token that may follow"
TellsOf: TypeAlias = Callable[[tuple[str, ...]], Message]
"""What a router is told of some requests that it reads."""


class CheckDeadline(Message, frozen=True, tag="check_deadline"):
    """Look whether a step is overdue; a pipeline's note to itself, never on the wire."""


class CheckRecovery(Message, frozen=True, tag="check_recovery"):
    """Did anybody mend what was lost in this epoch? A pipeline's note to itself."""

    epoch: int


class CheckRoom(Message, frozen=True, tag="check_room"):
    """Will the KV blocks last? A pipeline's note to itself, never on the wire."""


class CheckReservation(Message, frozen=True, tag="check_reservation"):
    """Did the request come that blocks are kept for? A pipeline's note to itself."""

    request: str


class PipelineActor(Actor):
    """Serves the requests of one pipeline over the stages it was opened with, or given since."""

    def __init__(
        self, opened: OpenPipeline, coordinator: Ref, attention: Attention | None = None
    ) -> None:
        self._opened = opened
        self._excuses = Excuses(attention or Attention())
        self._coordinator = coordinator
        self._ring = StepRing(opened)
        self._routers: dict[str, Ref] = {}
        self._watched_routers: set[Ref] = set()
        self._reserved = Reservations(self._ring.batcher)
        self._hand_offs = HandOffs(self, self._ring)
        self._moving_out: set[str] = set()  # these are given to one taker already
        self._is_changing = False
        self._is_waiting = opened.takes_over
        self._until_taken_over = ExitStack()

    async def on_start(self) -> None:
        """Watch every stage, so that the loss of one is noticed."""
        self._ring.context = self.context
        self._ring.on_turn = self._hand_offs.look
        for stage in self._ring.stages:
            self.context.watch(stage.ref)
        if self._opened.takes_over:
            self._until_taken_over.enter_context(self._ring.paused())
        else:
            self._settle(self._ring.stages, self._ring.epoch)
        self._check_deadline()
        self._check_room()

    async def receive(
        self, message: Message, sender: Ref | None, buffers: Sequence[Buffer]
    ) -> Message | None:
        """Take requests, cancellations, step results, changes and the news of lost stages."""
        match message:
            case StepOutput():
                self._on_output(message)
            case Generate():
                self._on_generate(message, sender)
            case Cancel():
                self._on_cancel(message.request)
            case HandOffTo():
                if message.request not in self._moving_out:
                    self._hand_offs.send_on(message.request, message.takers)
                    self._ring.pump()
            case ReplayDone():
                self._ring.replayed(message.step)
            case ChangeStages():
                return self._on_change(message)
            case HandOver():
                self._start_moving(self._hand_over(message))
            case MoveOut():
                later = self.context.reply_later()
                self.context.start_task(_answer(self._move_out(message), later))
            case ReserveBlocks():
                return self._reserve(message)
            case TakeOver():
                return self._take_over(message)
            case ClosePipeline():
                self._close(message.reason)
            case Down():
                self._on_down(message)
            case SuccessorLost():
                if any(stage.ref == sender for stage in self._ring.stages):
                    self._on_stage_gone(message.ref, "out of reach of the stage before it")
            case CheckDeadline():
                self._check_deadline()
            case CheckRoom():
                self._check_room()
            case CheckRecovery():
                self._check_recovery(message)
            case CheckReservation():
                self._check_reservation(message)
            case ReleaseBlocks():
                self._drop_reservation(message.request)
            case ExtendLease():
                until = self.context.loop_time() + message.lease_s
                self._reserved.extend(message.request, until)
            case GetPipelineLoad():
                return self._load()
            case GetStageLoads():
                later = self.context.reply_later()
                self.context.start_task(_answer(self._stage_loads(), later))
            case GetPipelineStages():
                return self._stages()
            case _:
                _log.warning("unexpected message type=%s", type(message).__name__)
        return None

    # --- requests

    def _on_generate(self, message: Generate, router: Ref | None) -> None:
        if router is None:
            return
        try:
            self._ring.batcher.add(sequence_of(message))
        except SchedulingError as error:
            kind = "queue_full" if isinstance(error, QueueFull) else "rejected"
            self._refuse(message.request, router, kind, str(error))
            return
        self._read_by(message.request, router)
        self._hand_offs.want(message)
        self._ring.pump()

    def _read_by(self, request: str, router: Ref) -> None:
        self._routers[request] = router
        if router not in self._watched_routers:
            self._watched_routers.add(router)
            self.context.watch(router)

    def _on_cancel(self, request: str) -> None:
        if self._routers.pop(request, None) is not None:
            self._hand_offs.forget(request)
            self._ring.batcher.cancel(request)
            self._ring.pump()

    def _on_router_down(self, router: Ref) -> None:
        """Nobody reads these any more.

        Where only the way was lost, as while a request moved here, the router is to go on with it.
        """
        self._watched_routers.discard(router)
        for request in [r for r, reader in self._routers.items() if reader == router]:
            reason = f"pipeline {self._opened.pipeline} does not hear the router"
            self._refuse(request, router.whichever(), OUT_OF_REACH, reason)
            self._on_cancel(request)

    def _refuse(self, request: str, router: Ref, kind: str, reason: str) -> None:
        failed = RequestFailed(request=request, kind=kind, reason=reason)
        self.context.tell(router, failed, lane=Lane.CONTROL)

    # --- tokens

    def _on_output(self, message: StepOutput) -> None:
        if message.epoch != self._ring.epoch:
            return
        tokens = np.frombuffer(message.token_ids, np.int32).tolist()
        outputs = self._ring.complete(message.step, tokens, dict(message.logprobs))
        if outputs is None:
            _log.warning("output of a step not in flight step=%d", message.step)
            return
        self._deliver(outputs)

    def _deliver(self, outputs: list[Output]) -> None:
        by_router: dict[Ref, list[TokensOf]] = defaultdict(list)
        for output in outputs:
            router = self._routers.get(output.request_id)
            if router is None:
                continue
            if output.finish_reason is not None:
                del self._routers[output.request_id]
                self._hand_offs.forget(output.request_id)
            if output.finish_reason == "failed":
                self._refuse(output.request_id, router, "no_token", NO_TOKEN_REASON)
                continue
            by_router[router].append(_update(output))
        for router, updates in by_router.items():
            self.context.tell(router, Tokens(epoch=self._ring.epoch, updates=tuple(updates)))

    # --- loss

    def _on_down(self, down: Down) -> None:
        if down.ref in self._watched_routers:
            self._on_router_down(down.ref)
        elif self._ring.uses(down.ref) and self._excuses.excuse(down.ref):
            self.context.start_task(self._look_for(down.ref))
        else:
            self._on_stage_gone(down.ref, str(down.reason))

    async def _look_for(self, stage: Ref) -> None:
        """We were away ourselves: one that answers goes on, and gets again what we missed."""
        with self._ring.paused():
            try:
                await self.context.ask(stage.whichever(), AreYouThere(), timeout_s=FIND_TIMEOUT_S)
            except (ActorError, TransportError):
                self._on_stage_gone(stage, "out of reach since we were away")
                return
        self.context.watch(stage)
        self._ring.abandon()
        self._ring.pump()
        _log.info("stage found again after our own absence stage=%s", stage)

    def _on_stage_gone(self, ref: Ref, how: str) -> None:
        stage = self._ring.note_gone(ref)
        if stage is not None:
            self._degrade(f"stage {stage} of pipeline {self._opened.pipeline} was lost ({how})")

    def _degrade(self, reason: str) -> None:
        """Hold everything, and say so to whoever can give us other stages."""
        _log.warning("%s held_requests=%d", reason, len(self._routers))
        self._ring.abandon()
        degraded = PipelineDegraded(
            epoch=self._ring.epoch,
            pipeline=self._opened.pipeline,
            lost=tuple(s.ref for s in self._ring.stages if s.ref in self._ring.lost),
            reason=reason,
        )
        self.context.tell(self._coordinator, degraded, lane=Lane.CONTROL)
        self._tell_routers(lambda requests: Recovered(requests, f"stage={self._lost_numbers()}"))
        self.context.schedule(self._opened.recovery_timeout_s, CheckRecovery(self._ring.epoch))

    def _lost_numbers(self) -> str:
        lost = self._ring.lost
        return ",".join(str(i) for i, stage in enumerate(self._ring.stages) if stage.ref in lost)

    def _tell_routers(self, news: TellsOf, requests: Iterable[str] | None = None) -> None:
        by_router: dict[Ref, list[str]] = defaultdict(list)
        for request in self._routers if requests is None else requests:
            by_router[self._routers[request]].append(request)
        for router, theirs in by_router.items():
            self.context.tell(router, news(tuple(theirs)), lane=Lane.CONTROL)

    def _check_recovery(self, note: CheckRecovery) -> None:
        if self._excuses.was_away:
            self.context.schedule(self._opened.recovery_timeout_s, note)
        elif note.epoch == self._ring.epoch and self._ring.lost:
            waited = f"nothing replaced it within {self._opened.recovery_timeout_s:g} s"
            numbers = self._lost_numbers()
            self._lose(f"stage {numbers} of pipeline {self._opened.pipeline} was lost; {waited}")

    def _check_deadline(self) -> None:
        """A step that never comes back is a hang: nobody must wait for it for ever."""
        deadline_s = self._opened.step_deadline_s
        if self._excuses.was_away:
            self._ring.restart_clocks()
        if self._ring.oldest_step_s() > deadline_s:
            what = f"a step of pipeline {self._opened.pipeline} took longer than {deadline_s:g} s"
            self._lose(what, is_stuck=True)
        self.context.schedule(deadline_s / 4, CheckDeadline())

    def _lose(self, reason: str, *, is_stuck: bool = False) -> None:
        """Give every request back to its router, and end: another is opened in this one's place."""
        _log.error("%s given_back=%d", reason, len(self._routers))
        for request, router in self._routers.items():
            self._refuse(request, router, "stage_lost", reason)
        lost = PipelineLost(
            epoch=self._ring.epoch,
            pipeline=self._opened.pipeline,
            reason=reason,
            is_stuck=is_stuck,
        )
        self.context.tell(self._coordinator, lost, lane=Lane.CONTROL)
        self._routers.clear()
        self._ring.abandon()
        self.context.stop()

    def _close(self, reason: str) -> None:
        """Another actor serves instead: what the stages hold for this one can go.

        One that never took over holds nothing of its own: its stages are its predecessor's.
        """
        if not self._is_waiting:
            upto = self._ring.epoch
            settled = SettleEpoch(pipeline=self._opened.pipeline, epoch=0, upto=upto)
            for stage in self._ring.stages:
                self.context.tell(stage.ref, settled, lane=Lane.CONTROL)
        self._lose(reason)

    # --- changing stages

    def _on_change(self, wanted: ChangeStages) -> Message | None:
        if (refusal := self._refusal(wanted)) is not None:
            return ChangeAborted(epoch=wanted.epoch, phase="prepare", reason=refusal)
        for ref in wanted.lost:
            self._on_stage_gone(ref, "its process ended")
        present = {stage.ref for stage in self._ring.stages}
        for stage in wanted.stages:
            if stage.ref not in present:
                self.context.watch(stage.ref)
        self._start_moving(self._change(wanted))
        return None

    def _refusal(self, wanted: ChangeStages) -> str | None:
        if self._is_changing:
            return BUSY
        if wanted.epoch <= self._ring.epoch:
            return f"it is at epoch {self._ring.epoch}, past {wanted.epoch}"
        num_tokens = wanted.num_blocks * self._ring.block_tokens
        if wanted.num_blocks < self._ring.num_blocks and num_tokens < self._opened.max_model_len:
            return f"{num_tokens} tokens of KV are less than a request may need"
        return None

    def _start_moving(self, answer: Awaitable[Message]) -> None:
        """Answer the message being handled when this is done; steps go on meanwhile."""
        self._is_changing = True
        self.context.start_task(self._move(answer, self.context.reply_later()))

    async def _move(self, answer: Awaitable[Message], later: LaterReply) -> None:
        outcome = await answer
        self._is_changing = False
        later.reply(outcome)
        self._ring.pump()

    async def _change(self, wanted: ChangeStages) -> Message:
        before = self._ring.stages
        await self._find_again(self._ring.strangers(wanted.stages))
        outcome = await change_stages(self._ring, wanted, partial(self._tell_phase, wanted.epoch))
        both = {stage.ref: stage for stage in (*before, *wanted.stages)}
        self._settle(both.values(), wanted.epoch)
        present = {stage.ref for stage in self._ring.stages}
        for ref in both:
            if ref not in present:
                self.context.unwatch(ref)
                self._ring.forget_gone(ref)
        self.context.tell(self._coordinator, self._stages(), lane=Lane.CONTROL)
        _log.info("change of stages epoch=%d outcome=%s", wanted.epoch, outcome)
        return outcome

    def _tell_phase(self, epoch: int, phase: str) -> None:
        news = ChangePhase(epoch=epoch, pipeline=self._opened.pipeline, phase=phase)
        self.context.tell(self._coordinator, news, lane=Lane.CONTROL)

    async def _find_again(self, workers: Sequence[Ref]) -> None:
        """Reach workers that are offered to us although we lost them once."""
        for ref in workers:
            with suppress(ActorError, TransportError):
                await self.context.ask(ref.whichever(), Fence(epoch=0), timeout_s=FIND_TIMEOUT_S)
                self._ring.forget_gone(ref)
                self.context.watch(ref)

    def _settle(self, stages: Iterable[StageSpec], upto: int) -> None:
        epoch = self._ring.epoch
        settled = SettleEpoch(pipeline=self._opened.pipeline, epoch=epoch, upto=upto)
        for stage in stages:
            self.context.tell(stage.ref, settled, lane=Lane.CONTROL)

    # --- requests that change hands: a `Giver` and a taker

    async def _hand_over(self, wanted: HandOver) -> Message:
        try:
            async with asyncio.timeout(wanted.deadline_s):
                await self._hand_offs.close()
                count = await hand_over(self, self._ring, wanted.to, wanted.deadline_s)
        except (ChangeFailed, TimeoutError) as error:
            self._hand_offs.reopen()
            return _not_handed_over(error, wanted.deadline_s)
        self.context.stop()
        return HandedOver(num_requests=count, failure=None)

    async def _move_out(self, wanted: MoveOut) -> Message:
        if self._hand_offs.is_under_way(wanted.request):
            failure = f"request {wanted.request} is being handed off"
            return HandedOver(num_requests=0, failure=failure)
        self._hand_offs.forget(wanted.request)
        self._moving_out.add(wanted.request)
        try:
            async with asyncio.timeout(wanted.deadline_s):
                await move_out(self, self._ring, wanted)
        except (ChangeFailed, TimeoutError) as error:
            return _not_handed_over(error, wanted.deadline_s)
        finally:
            self._moving_out.discard(wanted.request)
            self._ring.pump()
        return HandedOver(num_requests=1, failure=None)

    def router_of(self, request: str) -> Ref:
        """Who reads a request."""
        return self._routers[request]

    def takers_of(self, request: str) -> tuple[Taker, ...]:
        """Where a request is still to be handed off to."""
        return self._hand_offs.takers_of(request)

    def give_away(self, requests: Sequence[str], to: Ref) -> None:
        """These are somebody else's now, and whoever reads them is told."""
        wanted = [request for request in requests if request in self._routers]
        self._tell_routers(lambda names: StreamsMoved(names, to), wanted)
        for request in requests:
            if self._routers.pop(request, None) is None:  # its reader went meanwhile
                self.context.tell(to, Cancel(request=request), lane=Lane.CONTROL)
            self._ring.batcher.cancel(request)

    def _check_room(self) -> None:
        """Where blocks run short, somebody may go on in another pipeline."""
        sequence = None if self._is_changing else self._ring.batcher.surplus()
        name = "" if sequence is None else sequence.request_id
        is_on_its_way = self._hand_offs.is_under_way(name)
        if sequence is not None and name in self._routers and not is_on_its_way:
            short = PipelineShort(
                pipeline=self._opened.pipeline,
                request=sequence.request_id,
                num_blocks=num_blocks_to_move(sequence, self._ring.block_tokens),
            )
            self.context.tell(self._coordinator, short, lane=Lane.CONTROL)
        self.context.schedule(ROOM_INTERVAL_S, CheckRoom())

    def _reserve(self, wanted: ReserveBlocks) -> BlocksReserved:
        reserved = None
        if not wanted.is_hand_off or self._has_room_for(wanted):
            until = self.context.loop_time() + wanted.lease_s
            digests = () if self._is_unsettled else wanted.digests
            reserved = self._reserved.keep(
                wanted.request, wanted.num_blocks, self._ring.epoch, until, digests
            )
        if reserved is not None:
            self.context.schedule(wanted.lease_s, CheckReservation(wanted.request))
        table, num_present = reserved or ([], 0)
        return BlocksReserved(
            blocks=np.asarray(table, "<i4").tobytes(),
            epoch=self._ring.epoch,
            stages=self._ring.stages,
            num_present=num_present,
        )

    @property
    def _is_unsettled(self) -> bool:
        """Whether what is in the blocks now may be lost, or about to be somewhere else."""
        return self._is_changing or self._is_waiting or bool(self._ring.lost)

    def _has_room_for(self, wanted: ReserveBlocks) -> bool:
        """Whether another may run here, and each that runs or is to come may grow by a block."""
        if self._is_unsettled:
            return False
        if self._ring.may_run_forgotten(self._opened.step_deadline_s):
            return False
        batcher = self._ring.batcher
        num_others = batcher.num_running + len(self._reserved)
        num_left = batcher.num_to_spare(wanted.num_blocks, wanted.digests) - num_others - 1
        return num_others < self._opened.max_running and num_left >= 0

    def _check_reservation(self, note: CheckReservation) -> None:
        left_s = self._reserved.time_left(note.request, self.context.loop_time())
        if left_s is not None and left_s > 0:
            self.context.schedule(left_s, note)
        else:
            self._drop_reservation(note.request)

    def _drop_reservation(self, request: str) -> None:
        if self._reserved.drop(request):
            self._ring.pump()

    def _take_over(self, message: TakeOver) -> TakenOver:
        """Go on with requests of another actor: all of them, or none."""
        for state in message.sequences:
            name = state.generate.request
            has_changed = self._reserved.is_void(name, self._ring.epoch)
            if has_changed or (state.blocks and self._is_changing):
                self._drop_reservation(name)
                return TakenOver(failure="its stages changed while the blocks were written")
        try:
            for state in message.sequences:
                self._adopt(state)
        except (SchedulingError, ValueError) as error:
            for state in message.sequences:
                self._on_cancel(state.generate.request)
            return TakenOver(failure=str(error)[:MAX_REASON])
        if self._opened.takes_over:
            self._settle(self._ring.stages, self._ring.epoch)
        self._is_waiting = False
        self._until_taken_over.close()
        self._ring.pump()
        return TakenOver(failure=None)

    def _adopt(self, state: SequenceState) -> None:
        """Go on with one request; raises `SchedulingError` or `ValueError` where that cannot be."""
        batcher, sequence = self._ring.batcher, sequence_of(state.generate)
        table = block_ids(state.blocks).tolist()
        sequence.block_table, sequence.num_computed = table, state.num_computed
        sequence.num_exact_blocks, sequence.residency = state.num_exact_blocks, 1
        if table:
            num_present = self._reserved.take(sequence, is_own=self._is_waiting)
            num_tokens_present = num_present * self._ring.block_tokens
            sequence.num_computed = max(state.num_computed, num_tokens_present)
            self._ring.note_unlogged(table[num_present:])
        try:
            batcher.adopt(sequence)
        except SchedulingError:
            batcher.give_back(table)
            raise
        self._read_by(sequence.request_id, state.router)
        self._hand_offs.want(state.generate)

    # --- telling

    def _stages(self) -> PipelineStages:
        return PipelineStages(
            pipeline=self._opened.pipeline,
            epoch=self._ring.epoch,
            stages=self._ring.stages,
            num_blocks=self._ring.num_blocks,
            lost=tuple(self._ring.lost),
        )

    def _load(self) -> PipelineLoadReport:
        statistics = self._ring.batcher.statistics()
        return PipelineLoadReport(
            pipeline=self._opened.pipeline,
            num_running=statistics.num_running,
            num_waiting=statistics.num_waiting,
            num_free_blocks=statistics.num_free_blocks,
            num_blocks=self._ring.num_blocks,
            num_steps=self._ring.num_steps,
            num_preemptions=statistics.num_preemptions,
            hand_offs=self._hand_offs.counts,
            num_prefix_queries=statistics.num_prefix_queries,
            num_prefix_hits=statistics.num_prefix_hits,
        )

    async def _stage_loads(self) -> StageLoads:
        """What the stages did; one that does not answer in time is left out."""
        stages = self._ring.stages
        async with asyncio.TaskGroup() as asking:
            asked = [asking.create_task(self._stage_load(stage.ref)) for stage in stages]
        return StageLoads(
            pipeline=self._opened.pipeline,
            round_s=self._ring.round_s,
            num_stages=len(stages),
            stages=tuple(load for task in asked if (load := task.result()) is not None),
        )

    async def _stage_load(self, stage: Ref) -> StageLoad | None:
        try:
            answer = await self.context.ask(stage, GetStageLoad(), timeout_s=LOAD_TIMEOUT_S)
        except (ActorError, TransportError):
            return None
        return answer if isinstance(answer, StageLoad) else None


async def _answer(answer: Awaitable[Message], later: LaterReply) -> None:
    later.reply(await answer)


def _not_handed_over(error: Exception, deadline_s: float) -> HandedOver:
    reason = str(error) or f"not done within {deadline_s:g} s"
    return HandedOver(num_requests=0, failure=reason[:MAX_REASON])


def _update(output: Output) -> TokensOf:
    return TokensOf(
        request=output.request_id,
        position=output.position,
        token_ids=tuple(output.token_ids),
        finish_reason=output.finish_reason,
        logprobs=output.details,
        num_cached=output.num_cached,
    )
