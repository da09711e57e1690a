"""The gateway's backend in a real service: its requests become streams of the router beside it."""

import asyncio
from typing import Any

from actors.asking import answer_of
from actors.kernel.system import ActorSystem
from actors.messages import (
    Generate,
    GetPipelineLoad,
    PipelineLoadReport,
    PipelineStatus,
)
from actors.router import NoPipeline, QueueIsFull, RouterActor, StreamFailed
from actors.stream import Note, Stream
from models.token_logprobs import unpack_logprobs
from runtime.gateway.backend import (
    FinishReason,
    GenerationError,
    GenerationRequest,
    NotReady,
    Overloaded,
    TokenBatch,
)
from runtime.plan_json import pipeline_json, plan_json

LOAD_TIMEOUT_S = 2.0
RETRY_AFTER_S = 1.0
MAX_SEED = (1 << 63) - 1


class RouterStream:
    """One request's tokens; `aclose` cancels what is not finished, read or unread."""

    def __init__(self, router: RouterActor, stream: Stream, timeout_s: float) -> None:
        self._router = router
        self._stream = stream
        self._timeout_s = timeout_s
        self._finished = False

    def __aiter__(self) -> "RouterStream":
        return self

    async def __anext__(self) -> TokenBatch:
        if self._finished:
            raise StopAsyncIteration
        try:
            update = await self._router.next(self._stream, self._timeout_s)
        except StreamFailed as error:
            self._finished = True
            raise GenerationError(str(error), kind=error.failed.kind) from None
        if isinstance(update, Note):
            return TokenBatch((), None, update.text)
        self._finished = update.finish_reason is not None
        reason = _finish_reason(update.finish_reason)
        logprobs = tuple(unpack_logprobs(update.logprobs)) if update.logprobs else ()
        num_cached = update.num_cached
        return TokenBatch(update.token_ids, reason, logprobs=logprobs, num_cached=num_cached)

    async def aclose(self) -> None:
        """Cancel the request if it still runs."""
        self._finished = True
        self._router.close(self._stream)


class RouterBackend:
    """`Backend` over a `RouterActor` of the same process."""

    def __init__(self, router: RouterActor, system: ActorSystem, token_timeout_s: float) -> None:
        self._router = router
        self._system = system
        self._token_timeout_s = token_timeout_s

    def submit(self, request: GenerationRequest) -> RouterStream:
        """Send a request to a pipeline and stream its tokens."""
        try:
            stream = self._router.open(_generate(request))
        except NoPipeline as error:
            raise NotReady(str(error)) from None
        except QueueIsFull as error:
            raise Overloaded(str(error), retry_after_s=RETRY_AFTER_S) from None
        return RouterStream(self._router, stream, self._token_timeout_s)

    def not_ready_reason(self) -> str | None:
        """What `/health` says is missing."""
        return self._router.not_ready_reason()

    def plan(self) -> dict[str, Any]:
        """The plan and its state, as the coordinator told them last."""
        return plan_json(
            self._router.plan,
            is_ready=self.not_ready_reason() is None,
            num_recoveries=self._router.num_recoveries,
        )

    async def status(self) -> dict[str, Any]:
        """Plan and request counts; a pipeline that does not answer counts as none."""
        plan = self._router.plan
        pipelines = plan.pipelines if plan is not None else ()
        async with asyncio.TaskGroup() as asking:
            asked = [asking.create_task(self._load(pipeline)) for pipeline in pipelines]
        loads = [load for task in asked if (load := task.result()) is not None]
        hand_offs = {load.pipeline: load.hand_offs for load in loads}
        return self.plan() | {
            "pipelines": [pipeline_json(p, hand_offs.get(p.pipeline)) for p in pipelines],
            "requests": {
                "running": sum(load.num_running for load in loads),
                "waiting": sum(load.num_waiting for load in loads),
            },
            "kv": {
                "free_blocks": sum(load.num_free_blocks for load in loads),
                "blocks": sum(load.num_blocks for load in loads),
            },
            "prefix": {
                "queries": sum(load.num_prefix_queries for load in loads),
                "hits": sum(load.num_prefix_hits for load in loads),
            },
            "steps": sum(load.num_steps for load in loads),
            "preemptions": sum(load.num_preemptions for load in loads),
        }

    async def _load(self, pipeline: PipelineStatus) -> PipelineLoadReport | None:
        if pipeline.ref is None:
            return None
        return await answer_of(
            self._system,
            pipeline.ref,
            GetPipelineLoad(),
            PipelineLoadReport,
            timeout_s=LOAD_TIMEOUT_S,
        )


def _generate(request: GenerationRequest) -> Generate:
    return Generate(
        request=request.request_id,
        token_ids=request.token_ids,
        max_tokens=request.max_tokens,
        min_tokens=request.min_tokens,
        stop_token_ids=request.stop_token_ids,
        temperature=request.temperature,
        top_p=request.top_p,
        top_k=request.top_k,
        min_p=request.min_p,
        seed=request.seed & MAX_SEED,
        extras=request.extras.pack(),
    )


def _finish_reason(reason: str | None) -> FinishReason | None:
    match reason:
        case None | "stop" | "length":
            return reason
    raise GenerationError(f"unknown finish reason {reason!r}")
