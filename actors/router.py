"""The router: picks the pipeline for each request and keeps the stream of its tokens whole.

It lives in the gateway's process. It keeps how many tokens of each request it has delivered, so
that a message that comes twice adds nothing and a hole is noticed. It never knows text or HTTP.
"""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec

from actors.kernel.actor import Actor
from actors.kernel.errors import ActorError
from actors.kernel.ref import ANY, Ref
from actors.kernel.supervision import Down, DownReason
from actors.messages import (
    Cancel,
    Generate,
    GetPipelineLoad,
    PipelineStatus,
    PlanChanged,
    RegisterRouter,
    RequestFailed,
    Tokens,
    TokensOf,
)
from scheduling.routing import PipelineLoad, choose_pipeline
from transport.codec import Message
from transport.endpoint import Lane
from transport.errors import TransportError
from transport.frame import Buffer

_log = logging.getLogger(__name__)

READY = "ready"
RETRY_S = 1.0
"""How often one that fell out of reach is looked for, and how long an answer may take."""


@dataclass(frozen=True, slots=True)
class Failed:
    """The end of a stream that cannot go on."""

    kind: str
    reason: str


@dataclass(slots=True)
class Stream:
    """A request's tokens on their way to whoever reads them.

    `updates` holds at most one entry a step, and a request has at most `max_tokens` steps.
    """

    request: str
    pipeline: str
    ref: Ref
    num_prompt_tokens: int
    num_delivered: int = 0
    updates: "asyncio.Queue[TokensOf | Failed]" = field(default_factory=asyncio.Queue)


class QueueIsFull(Exception):
    """Every pipeline runs and queues as many requests as it may."""


class NoPipeline(Exception):
    """No pipeline serves now; the text says what is missing."""


class RouterActor(Actor):
    """Sends requests to pipelines and tokens to streams."""

    def __init__(self, coordinator: Ref) -> None:
        self._coordinator = coordinator
        self._plan: PlanChanged | None = None
        self._known: set[Ref | None] = set()
        self._watched: set[Ref | None] = set()
        self._streams: dict[str, Stream] = {}

    async def on_start(self) -> None:
        """Ask the coordinator for the plan, now and whenever it changes."""
        self.context.watch(self._coordinator)
        self.context.tell(self._coordinator, self._registration(), lane=Lane.CONTROL)

    async def receive(
        self, message: Message, sender: Ref | None, buffers: Sequence[Buffer]
    ) -> Message | None:
        """Take tokens, failures, plans and the news of lost pipelines."""
        match message:
            case Tokens():
                for update in message.updates:
                    self._on_tokens(update)
            case RequestFailed():
                self._fail(message.request, message.kind, message.reason)
            case PlanChanged():
                self._on_plan(message)
            case Down():
                self._on_down(message)
            case _:
                _log.warning("unexpected message type=%s", type(message).__name__)
        return None

    # --- what the gateway calls

    @property
    def plan(self) -> PlanChanged | None:
        """The newest plan the coordinator told us, if any."""
        return self._plan

    def not_ready_reason(self) -> str | None:
        """What is missing before requests can be served, or None."""
        if self._plan is None:
            return "the coordinator has not announced a plan yet"
        if self._plan.missing:
            return "; ".join(self._plan.missing)
        return None if self._open_pipelines() else "no pipeline is ready"

    def open(self, generate: Generate) -> "Stream":
        """Send a request to the pipeline that should finish it first.

        `generate.epoch` is filled in here.

        Raises:
            NoPipeline: none is ready.
            QueueIsFull: all are full.
        """
        pipelines = self._open_pipelines()
        if not pipelines:
            raise NoPipeline(self.not_ready_reason() or "no pipeline is ready")
        loads = [load for status in pipelines if (load := self._room(status)) is not None]
        chosen = choose_pipeline(loads, num_prompt_tokens=len(generate.token_ids))
        if chosen is None:
            raise QueueIsFull(f"{len(self._streams)} requests are running or queued")
        status = next(p for p in pipelines if p.pipeline == chosen)
        assert status.ref is not None
        stream = Stream(generate.request, chosen, status.ref, len(generate.token_ids))
        self.context.tell(status.ref, msgspec.structs.replace(generate, epoch=status.epoch))
        self._streams[generate.request] = stream  # only what was sent counts as running
        return stream

    async def next(self, stream: Stream, timeout_s: float) -> TokensOf:
        """Wait for a stream's next tokens.

        Raises:
            StreamFailed: the request cannot go on, or nothing came for `timeout_s`.
        """
        try:
            async with asyncio.timeout(timeout_s):
                update = await stream.updates.get()
        except TimeoutError:
            self.close(stream)
            update = Failed("timeout", f"no token came for {timeout_s:g} s")
        if isinstance(update, Failed):
            raise StreamFailed(update)
        return update

    def close(self, stream: Stream) -> None:
        """Forget a stream; if it still runs, cancel it."""
        if self._streams.pop(stream.request, None) is not None:
            self._cancel(stream)

    def fail_all(self, kind: str, reason: str) -> None:
        """End every stream with an error, as when the service stops."""
        for stream in list(self._streams.values()):
            self._cancel(stream)
            self._fail(stream.request, kind, reason)

    def _cancel(self, stream: Stream) -> None:
        self.context.tell(stream.ref, Cancel(request=stream.request), lane=Lane.CONTROL)

    # --- tokens

    def _on_tokens(self, update: TokensOf) -> None:
        stream = self._streams.get(update.request)
        if stream is None:
            return
        if update.position > stream.num_delivered:
            hole = f"tokens {stream.num_delivered} to {update.position} never came"
            self._cancel(stream)
            self._fail(update.request, "tokens_lost", hole)
            return
        fresh = update.token_ids[stream.num_delivered - update.position :]
        if not fresh and update.finish_reason is None:
            return
        stream.num_delivered += len(fresh)
        stream.updates.put_nowait(
            TokensOf(
                request=update.request,
                position=stream.num_delivered - len(fresh),
                token_ids=fresh,
                finish_reason=update.finish_reason,
            )
        )
        if update.finish_reason is not None:
            del self._streams[update.request]

    def _fail(self, request: str, kind: str, reason: str) -> None:
        stream = self._streams.pop(request, None)
        if stream is not None:
            stream.updates.put_nowait(Failed(kind, reason))

    # --- plans

    def _on_plan(self, plan: PlanChanged) -> None:
        if self._plan is not None and plan.epoch < self._plan.epoch:
            return
        self._plan = plan
        for status in plan.pipelines:
            if status.ref is not None and status.ref not in self._known:
                self._known.add(status.ref)
                self._watched.add(status.ref)
                self.context.watch(status.ref)
        self._known &= {status.ref for status in plan.pipelines}

    def _on_down(self, down: Down) -> None:
        self._watched.discard(down.ref)
        if down.reason == DownReason.NO_CONNECTION:  # the way may be lost and not the actor
            self.context.start_task(self._look_for(down.ref))
        lost = [stream for stream in self._streams.values() if stream.ref == down.ref]
        for stream in lost:
            reason = f"pipeline {stream.pipeline} was lost ({down.reason})"
            self._fail(stream.request, "pipeline_lost", reason)

    async def _look_for(self, ref: Ref) -> None:
        """Find one again that is out of reach, as long as it is wanted.

        Its process counts as lost here, so that another life there may answer; the watch of `ref`
        itself then says so.
        """
        is_coordinator = ref == self._coordinator
        question = self._registration() if is_coordinator else GetPipelineLoad()
        whichever = msgspec.structs.replace(ref, incarnation=ANY)
        is_found = False
        while not is_found and (is_coordinator or ref in self._known):
            await asyncio.sleep(RETRY_S)
            is_found = await self._answers(whichever, question)
        if is_found:
            self.context.watch(ref)
            self._watched.add(ref)

    async def _answers(self, ref: Ref, question: Message) -> bool:
        try:
            await self.context.ask(ref, question, timeout_s=RETRY_S)
        except (ActorError, TransportError):
            return False
        return True

    def _registration(self) -> RegisterRouter:
        return RegisterRouter(ref=self.context.self_ref)

    def _open_pipelines(self) -> list[PipelineStatus]:
        pipelines = self._plan.pipelines if self._plan is not None else ()
        return [p for p in pipelines if p.state == READY and p.ref in self._watched]

    def _room(self, status: PipelineStatus) -> PipelineLoad | None:
        mine = [s for s in self._streams.values() if s.pipeline == status.pipeline]
        if len(mine) >= status.max_running + status.max_waiting:
            return None
        queued = sum(s.num_prompt_tokens for s in mine if s.num_delivered == 0)
        return PipelineLoad(
            pipeline=status.pipeline, num_queued_tokens=queued, num_running=len(mine)
        )


class StreamFailed(Exception):
    """A stream ended without a finish reason; `failed` says why."""

    def __init__(self, failed: Failed) -> None:
        super().__init__(failed.reason)
        self.failed = failed
