"""The owner of every request in one pipeline: it forms steps and hands out their tokens.

All that a sequence is (tokens, block table, sampling position) lives in this actor's batcher. The
stages keep nothing of it, so a step is a message out to the first stage and one back from the last.
The pipeline never knows text, HTTP or which process a stage is.
"""

import logging
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from actors.kernel.actor import Actor
from actors.kernel.ref import Ref
from actors.kernel.supervision import Down
from actors.messages import (
    Cancel,
    Generate,
    GetPipelineLoad,
    OpenPipeline,
    PipelineLoadReport,
    PipelineLost,
    RequestFailed,
    StepInput,
    StepOutput,
    Tokens,
    TokensOf,
)
from actors.step_batch import forward_batch
from scheduling.batcher import Batcher, BatcherSettings, Output, Step
from scheduling.blocks import BlockPool
from scheduling.errors import QueueFull, SchedulingError
from scheduling.sequence import SamplingParameters
from scheduling.sequence import Sequence as TokenSequence
from transport.codec import Message
from transport.endpoint import Lane
from transport.frame import Buffer

_log = logging.getLogger(__name__)


class CheckDeadline(Message, frozen=True, tag="check_deadline"):
    """Look whether a step is overdue; a pipeline's note to itself, never on the wire."""


class PipelineActor(Actor):
    """Serves the requests of one pipeline over the stages it was opened with."""

    def __init__(self, opened: OpenPipeline, coordinator: Ref) -> None:
        self._opened = opened
        self._coordinator = coordinator
        self._batcher = _new_batcher(opened)
        self._routers: dict[str, Ref] = {}
        self._num_steps = 0
        self._sent_at: dict[int, float] = {}

    async def on_start(self) -> None:
        """Watch every stage, so that the loss of one is told to whoever waits."""
        for stage in self._opened.stages:
            self.context.watch(stage)
        self._check_deadline()

    async def receive(
        self, message: Message, sender: Ref | None, buffers: Sequence[Buffer]
    ) -> Message | None:
        """Take requests, cancellations, step results and the news of lost stages."""
        match message:
            case StepOutput():
                self._on_output(message)
            case Generate():
                self._on_generate(message, sender)
            case Cancel():
                self._on_cancel(message)
            case Down():
                self._on_down(message)
            case CheckDeadline():
                self._check_deadline()
            case GetPipelineLoad():
                return self._load()
            case _:
                _log.warning("unexpected message type=%s", type(message).__name__)
        return None

    # --- requests

    def _on_generate(self, message: Generate, router: Ref | None) -> None:
        if router is None:
            return
        if message.epoch != self._opened.epoch:
            reason = f"sent for epoch {message.epoch}, the pipeline is at {self._opened.epoch}"
            self._refuse(message.request, router, "stale_epoch", reason)
            return
        try:
            self._batcher.add(_sequence(message))
        except SchedulingError as error:
            kind = "queue_full" if isinstance(error, QueueFull) else "rejected"
            self._refuse(message.request, router, kind, str(error))
            return
        self._routers[message.request] = router
        self._pump()

    def _on_cancel(self, message: Cancel) -> None:
        if self._routers.pop(message.request, None) is not None:
            self._batcher.cancel(message.request)
            self._pump()

    def _refuse(self, request: str, router: Ref, kind: str, reason: str) -> None:
        failed = RequestFailed(request=request, kind=kind, reason=reason)
        self.context.tell(router, failed, lane=Lane.CONTROL)

    # --- steps

    def _pump(self) -> None:
        while (step := self._batcher.next_step()) is not None:
            self._send(step)

    def _send(self, step: Step) -> None:
        batch = forward_batch(step.slots)
        message = StepInput(epoch=self._opened.epoch, step=step.number, batch=batch.pack())
        self._num_steps += 1
        self._sent_at[step.number] = self.context.loop_time()
        self.context.tell(self._opened.stages[0], message)

    def _on_output(self, message: StepOutput) -> None:
        if message.epoch != self._opened.epoch:
            return
        if self._sent_at.pop(message.step, None) is None:
            _log.warning("output of a step not in flight step=%d", message.step)
            return
        tokens = np.frombuffer(message.token_ids, np.int32).tolist()
        outputs = self._batcher.complete(message.step, tokens)
        self._pump()
        self._deliver(outputs)

    def _deliver(self, outputs: list[Output]) -> None:
        by_router: dict[Ref, list[TokensOf]] = defaultdict(list)
        for output in outputs:
            router = self._routers.get(output.request_id)
            if router is None:
                continue
            if output.finish_reason is not None:
                del self._routers[output.request_id]
            by_router[router].append(_update(output))
        for router, updates in by_router.items():
            self.context.tell(router, Tokens(epoch=self._opened.epoch, updates=tuple(updates)))

    # --- loss

    def _on_down(self, down: Down) -> None:
        if down.ref in self._opened.stages:
            stage = self._opened.stages.index(down.ref)
            self._lose(
                f"stage {stage} of pipeline {self._opened.pipeline} was lost ({down.reason})"
            )

    def _check_deadline(self) -> None:
        """A step that never comes back is a hang: nobody must wait for it for ever."""
        deadline_s = self._opened.step_deadline_s
        oldest = min(self._sent_at.values(), default=self.context.loop_time())
        if self.context.loop_time() - oldest > deadline_s:
            self._lose(
                f"a step of pipeline {self._opened.pipeline} took longer than {deadline_s:g} s"
            )
        self.context.schedule(deadline_s / 4, CheckDeadline())

    def _lose(self, reason: str) -> None:
        """Tell everybody who waits, and end: the coordinator opens another in this one's place."""
        _log.error("%s failed_requests=%d", reason, len(self._routers))
        for request, router in self._routers.items():
            self._refuse(request, router, "stage_lost", reason)
        lost = PipelineLost(epoch=self._opened.epoch, pipeline=self._opened.pipeline, reason=reason)
        self.context.tell(self._coordinator, lost, lane=Lane.CONTROL)
        self._routers.clear()
        self._sent_at.clear()
        self.context.stop()

    def _load(self) -> PipelineLoadReport:
        statistics = self._batcher.statistics()
        return PipelineLoadReport(
            pipeline=self._opened.pipeline,
            num_running=statistics.num_running,
            num_waiting=statistics.num_waiting,
            num_free_blocks=statistics.num_free_blocks,
            num_blocks=self._opened.num_blocks,
            num_steps=self._num_steps,
            num_preemptions=statistics.num_preemptions,
        )


def _new_batcher(opened: OpenPipeline) -> Batcher:
    num_stages = len(opened.stages)
    settings = BatcherSettings(
        max_running=opened.max_running,
        max_waiting=opened.max_waiting,
        max_step_tokens=opened.max_step_tokens,
        max_in_flight=num_stages + 1,
        num_stages=num_stages,
        max_model_tokens=opened.max_model_len,
    )
    return Batcher(settings, BlockPool(opened.num_blocks, opened.block_tokens))


def _sequence(message: Generate) -> TokenSequence:
    return TokenSequence(
        request_id=message.request,
        token_ids=list(message.token_ids),
        max_tokens=message.max_tokens,
        min_tokens=message.min_tokens,
        stop_token_ids=frozenset(message.stop_token_ids),
        sampling=SamplingParameters(
            temperature=message.temperature,
            top_p=message.top_p,
            top_k=message.top_k,
            min_p=message.min_p,
            seed=message.seed,
        ),
    )


def _update(output: Output) -> TokensOf:
    return TokensOf(
        request=output.request_id,
        position=output.position,
        token_ids=tuple(output.token_ids),
        finish_reason=output.finish_reason,
    )
