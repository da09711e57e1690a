"""A stage: layers of a model at work in a pipeline, one step after another.

It is a pure function of its weights, its KV blocks and the step: no request has state here, but for
a log of hidden states that is addressed by KV block as the KV is. The event loop only carries
bytes; the shard runs in the device's own thread, where the next step may already queue while this
one's result is on its way. What the next epoch needs is loaded beside it.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, Protocol, TypeVar

import msgspec
import numpy as np

from actors.attention import Attention, Excuses
from actors.holding import Held, Holding, LoadedShard, is_same_shard, stage_ready
from actors.kernel.actor import Actor, LaterReply
from actors.kernel.errors import ActorError
from actors.kernel.ref import Ref
from actors.kernel.supervision import Down
from actors.messages import (
    AreYouThere,
    AssignStage,
    BlocksSent,
    BlocksWritten,
    Fence,
    FetchWeights,
    GetStageLoad,
    GetStageSteps,
    LoadProgress,
    ReplayDone,
    ReplayFrom,
    ReplayStep,
    SendBlocks,
    SettleEpoch,
    StageFailed,
    StageLoad,
    StageSteps,
    StepInput,
    StepOutput,
    SuccessorLost,
    WeightsFetched,
    WriteBlocks,
)
from actors.migration import send_blocks, take_blocks
from actors.stage_counters import StageCounters
from actors.step_marks import StepMarks
from actors.step_record import StepRecord, timed
from models.errors import ModelError
from models.forward_batch import ForwardBatch
from models.interface import ForwardResult, Shard
from transport.codec import Message
from transport.endpoint import Lane
from transport.errors import TransportError
from transport.frame import Buffer

_log = logging.getLogger(__name__)
_T = TypeVar("_T")
_Step = TypeVar("_Step", StepInput, ReplayStep)

MAX_STEPS_IN_FLIGHT = 8
"""More than any pipeline keeps in flight per stage; a sender beyond it waits in the mailbox."""
LEASE_S = 300.0
"""How long what was prepared is kept for a pipeline that never uses it."""
FETCH_TIMEOUT_S = 1800.0
"""How long weights may take to come from another node: as long as a stage may take to load."""
MAX_REASON = 4096
FIND_TIMEOUT_S = 2.0


class Device(Protocol):
    """What a stage needs of the place where its tensors live."""

    def run(self, function: Callable[[], _T]) -> "asyncio.Future[_T]":
        """Run a blocking function after all earlier ones, off the event loop."""
        ...

    def run_beside(self, function: Callable[[], _T]) -> "asyncio.Future[_T]":
        """Run a blocking function off the event loop without keeping `run`'s from their turn."""
        ...

    def copy(self, function: Callable[[], _T]) -> "asyncio.Future[_T]":
        """Run a blocking function that reads or writes KV blocks which no step is at.

        After all earlier ones, beside what `run` runs: a copy never waits for a step.
        """
        ...

    def load(
        self,
        assignment: AssignStage,
        held: LoadedShard | None,
        on_progress: Callable[[int, int], None],
    ) -> LoadedShard:
        """Load the shard an assignment asks for; blocking. `on_progress(done, total)` in bytes.

        Layers that `held` has are shared with it, KV and all; it may run meanwhile.
        """
        ...


class CheckLease(Message, frozen=True, tag="check_lease"):
    """Was what was prepared for this epoch ever used? A stage's note to itself."""

    epoch: int


class StageActor(Actor):
    """Runs the steps of whichever epochs it holds; drops those of another."""

    def __init__(
        self,
        device: Device,
        weights: Ref | None = None,
        attention: Attention | None = None,
        unpack: Callable[[bytes], ForwardBatch] = ForwardBatch.unpack,
    ) -> None:
        """A stage on a device.

        `weights` fetches what its node lacks, and is None if nobody can. `unpack` reads a step's
        batch: many stages in one process may share what they read.
        """
        self._device = device
        self._weights = weights
        self._excuses = Excuses(attention or Attention())
        self._unpack = unpack
        self._holding = Holding()
        self._steps = StepRecord()
        self._marks = StepMarks()
        self._slots = asyncio.Semaphore(MAX_STEPS_IN_FLIGHT)
        self._loading = asyncio.Lock()
        self.num_stale_steps = 0
        self.counters = StageCounters(0.0)

    async def on_start(self) -> None:
        """Count from now on."""
        self.counters = StageCounters(self.context.loop_time())

    async def receive(
        self, message: Message, sender: Ref | None, buffers: Sequence[Buffer]
    ) -> Message | None:
        """Take steps, assignments, KV blocks and what is asked of them."""
        match message:
            case StepInput():
                await self._start(message, buffers, self._finish_step)
            case WriteBlocks():
                self._reply_with(self._write(message, buffers))
            case SendBlocks():
                self._reply_with(self._send(message))
            case ReplayStep():
                await self._start(message, buffers, self._finish_replay)
            case ReplayFrom():
                await self._on_replay_from(message)
            case AssignStage():
                self._reply_with(self._assign(message))
            case Fence():
                self._holding.fence(message.epoch)
                self._reply_with(self._after_all_steps(message))
            case SettleEpoch():
                if self._holding.settle(message.pipeline, message.epoch, message.upto):
                    _log.info("epoch settled epoch=%d", message.epoch)
            case AreYouThere():
                return None
            case GetStageSteps():
                return self._measured_steps((message.start, message.end))
            case Down():
                self._on_down(message)
            case CheckLease():
                if self._holding.drop_unconfirmed(message.epoch):
                    _log.warning("prepared stage dropped epoch=%d reason=lease", message.epoch)
            case GetStageLoad():
                return self._load_report()
            case _:
                _log.warning("unexpected message type=%s", type(message).__name__)
        return None

    def _load_report(self) -> StageLoad:
        counters, now = self.counters, self.context.loop_time()
        newest = self._holding.newest
        return StageLoad(
            stage=0 if newest is None else newest.assignment.stage,
            num_steps=counters.num_steps,
            num_stale_steps=self.num_stale_steps,
            num_queued=counters.num_queued,
            busy_s=counters.busy_s(now),
            idle_s=counters.idle_s(now),
            resident_s=counters.resident_s,
            sent_bytes=counters.sent_bytes,
        )

    def _reply_with(self, answer: Awaitable[Message]) -> None:
        """Answer the message being handled when this is done; others go on meanwhile."""
        self.context.start_task(_reply(self.context.reply_later(), answer))

    # --- loading

    async def _assign(self, wanted: AssignStage) -> Message:
        async with self._loading:
            before = self._holding.newest
            try:
                loaded = await self._loaded_for(wanted, before)
            except (ModelError, OSError, MemoryError) as error:
                _log.error("stage cannot load stage=%d reason=%s", wanted.stage, error)
                reason = str(error)[:MAX_REASON]
                return StageFailed(epoch=wanted.epoch, stage=wanted.stage, reason=reason)
            self._holding.put(wanted, loaded)
        if wanted.successor != wanted.home:
            self.context.watch(wanted.successor)
        self.context.schedule(LEASE_S, CheckLease(wanted.epoch))
        _log.info(
            "stage ready epoch=%d stage=%d layers=%d:%d weight_bytes=%d resident_bytes=%d",
            wanted.epoch,
            wanted.stage,
            wanted.start,
            wanted.end,
            loaded.weight_bytes,
            loaded.resident_bytes,
        )
        return stage_ready(wanted, loaded, before)

    async def _loaded_for(self, wanted: AssignStage, before: Held | None) -> LoadedShard:
        loop = asyncio.get_running_loop()

        def on_progress(done: int, total: int) -> None:
            loop.call_soon_threadsafe(self._tell_progress, wanted, done, total)

        if before is None or before.assignment.pipeline != wanted.pipeline:
            self._holding = Holding()  # nothing of it serves: its memory is needed
            here = await self._with_weights(wanted)
            return await self._device.run(lambda: self._device.load(here, None, on_progress))
        if is_same_shard(before.assignment, wanted):
            return before.loaded
        held, beside = before.loaded, await self._with_weights(wanted)
        return await self._device.run_beside(lambda: self._device.load(beside, held, on_progress))

    async def _with_weights(self, wanted: AssignStage) -> AssignStage:
        """The assignment with the directory where its weights are on this node.

        Raises:
            ModelError: they are not here, and did not come from elsewhere.
        """
        if self._weights is None or wanted.weights.source == "disk":
            return wanted
        order = FetchWeights(
            model=wanted.model,
            model_hash=wanted.model_hash,
            start=wanted.start,
            end=wanted.end,
            policy=wanted.weights,
        )
        try:
            answer = await self.context.ask(self._weights, order, timeout_s=FETCH_TIMEOUT_S)
        except (ActorError, TransportError) as error:
            raise ModelError(f"weights of layers {wanted.start}:{wanted.end}: {error}") from None
        if not isinstance(answer, WeightsFetched) or answer.failure is not None:
            raise ModelError(str(getattr(answer, "failure", "another answer came")))
        return msgspec.structs.replace(wanted, model=answer.model)

    def _tell_progress(self, wanted: AssignStage, done: int, total: int) -> None:
        progress = LoadProgress(
            epoch=wanted.epoch,
            pipeline=wanted.pipeline,
            stage=wanted.stage,
            num_bytes=done,
            total_bytes=total,
        )
        self.context.tell(wanted.observer, progress, lane=Lane.CONTROL)

    def _on_down(self, down: Down) -> None:
        if self._excuses.excuse(down.ref):
            self.context.start_task(self._look_for(down.ref))
        else:
            self._tell_lost(down.ref)

    async def _look_for(self, successor: Ref) -> None:
        """We were away ourselves: only one that does not answer now is lost."""
        try:
            await self.context.ask(successor.whichever(), AreYouThere(), timeout_s=FIND_TIMEOUT_S)
        except (ActorError, TransportError):
            self._tell_lost(successor)
        else:
            self.context.watch(successor)

    def _tell_lost(self, successor: Ref) -> None:
        """Whoever owns the pipeline may still reach a stage that we cannot."""
        for held in self._holding:
            if held.assignment.successor == successor:
                lost = SuccessorLost(ref=successor)
                self.context.tell(held.assignment.home, lost, lane=Lane.CONTROL)

    # --- steps

    async def _start(
        self,
        message: _Step,
        buffers: Sequence[Buffer],
        finish: Callable[[_Step, AssignStage, ForwardResult], None],
    ) -> None:
        """Queue a step at the device, unless its epoch is not, or no more, held."""
        held = self._use(message.epoch)
        if held is None:
            return
        batch = self._unpack(message.batch)
        hidden = memoryview(buffers[0]) if buffers else None
        await self._slots.acquire()
        assignment = held.assignment
        forward = timed(partial(held.loaded.forward, batch, hidden), self.context.loop_time)
        running = self._device.run(forward)
        # Before `done`, which is not called for a step that fails.
        running.add_done_callback(partial(self._ended, self._began()))

        def done(ended: tuple[ForwardResult, float]) -> None:
            self._slots.release()
            result, seconds = ended
            layers = (assignment.start, assignment.end)
            self._steps.add(layers, batch, seconds, self.context.loop_time())
            finish(message, assignment, result)

        self.context.follow(running, done)

    def _began(self) -> float:
        now = self.context.loop_time()
        self.counters.step_began(now)
        return now

    def _ended(self, began: float, running: "asyncio.Future[Any]") -> None:
        self.counters.step_ended(began, self.context.loop_time())

    def _use(self, epoch: int) -> Held | None:
        """What a step of an epoch is for; None if that is not, or no more, held."""
        held = self._holding.use(epoch)
        if held is None:
            self.num_stale_steps += 1
        return held

    def _finish_step(self, step: StepInput, assignment: AssignStage, result: ForwardResult) -> None:
        self._marks.mark(step.epoch, step.step)
        if result.hidden is not None:
            self.counters.sent_bytes += result.hidden.nbytes
            self.context.tell(assignment.successor, step, buffers=(result.hidden,))
        elif result.token_ids is not None:
            tokens = result.token_ids.astype(np.int32, copy=False).tobytes()
            output = StepOutput(
                epoch=step.epoch, step=step.step, token_ids=tokens, logprobs=result.logprobs
            )
            self.context.tell(assignment.successor, output)

    def _measured_steps(self, layers: tuple[int, int]) -> StageSteps:
        return StageSteps(
            start=layers[0],
            end=layers[1],
            steps=tuple(
                (
                    int(step.work.num_tokens),
                    int(step.work.num_pairs),
                    int(step.work.num_context),
                    int(step.work.num_drawn),
                    step.seconds,
                )
                for step in self._steps.of(layers)
            ),
            tokens_per_s=self._steps.tokens_per_s(layers, self.context.loop_time()),
        )

    # --- replaying

    def _finish_replay(
        self, step: ReplayStep, assignment: AssignStage, result: ForwardResult
    ) -> None:
        if assignment.stage < step.last and result.hidden is not None:
            self.context.tell(assignment.successor, step, buffers=(result.hidden,))
        else:
            self.context.tell(assignment.home, ReplayDone(epoch=step.epoch, step=step.step))

    async def _on_replay_from(self, message: ReplayFrom) -> None:
        held = self._use(message.epoch)
        if held is None:
            return
        if held.loaded.log is None:
            self.num_stale_steps += 1
            return
        log, batch = held.loaded.log, self._unpack(message.batch)
        hidden = await self._device.run(lambda: log.read(batch))
        step = ReplayStep(
            epoch=message.epoch, step=message.step, batch=message.batch, last=message.last
        )
        self.context.tell(held.assignment.successor, step, buffers=(hidden,))

    async def _after_all_steps(self, fence: Fence) -> Message:
        """Answer once the device has done all that it was given before."""
        await self._device.run(lambda: None)
        return fence

    # --- KV blocks

    async def _send(self, wanted: SendBlocks) -> Message:
        until = self.context.loop_time() + wanted.deadline_s
        if (failure := await self._until_run(wanted)) is not None:
            return BlocksSent(num_bytes=0, failure=failure)
        # What came after the deadline would be written to blocks that may be somebody else's.
        left_s = max(0.0, until - self.context.loop_time())
        held = self._holding.get(wanted.epoch)
        if held is None:
            return BlocksSent(num_bytes=0, failure=f"epoch {wanted.epoch} is not held here")
        shard = self.shard_towards(held, wanted.target)
        copy = self._device.copy
        sent = await send_blocks(self.context, copy, shard, shard.block_bytes(), wanted, left_s)
        if sent.saved_bytes:
            _log.debug(
                "blocks sent encoding=%s num_bytes=%d saved_bytes=%d",
                wanted.encoding,
                sent.num_bytes,
                sent.saved_bytes,
            )
        return sent

    async def _until_run(self, wanted: SendBlocks) -> str | None:
        """Wait for the step whose entries are to be sent; why not, if it was not run in time."""
        if wanted.after_step is None:
            return None
        what = f"step {wanted.after_step} of epoch {wanted.epoch}"
        try:
            async with asyncio.timeout(wanted.deadline_s):
                was_run = await self._marks.reached(wanted.epoch, wanted.after_step)
        except TimeoutError:
            return f"{what} was not run within {wanted.deadline_s:g} s"
        return None if was_run else f"{what} was not run here"

    def shard_towards(self, held: Held, target: Ref) -> Shard:
        """The shard whose blocks are sent to a target; where the way matters, one that knows it."""
        return held.loaded.shard

    async def _write(self, message: WriteBlocks, buffers: Sequence[Buffer]) -> Message:
        held = self._holding.writable(message.epoch)
        if held is None:
            return BlocksWritten(failure=f"epoch {message.epoch} is not held here")
        return await take_blocks(self._device.copy, held.loaded.shard, message, buffers)


async def _reply(later: LaterReply, answer: Awaitable[Message]) -> None:
    later.reply(await answer)
