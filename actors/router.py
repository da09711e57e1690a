"""The router: picks the pipeline for each request and keeps the stream of its tokens whole.

It lives in the gateway's process. It keeps prompt and delivered tokens of each request, so that a
request whose pipeline is lost goes on at the next one that is up, from where its reader is. While
none is up, requests are held, up to a bound and for a time. It never knows text or HTTP.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from actors.kernel.actor import Actor
from actors.kernel.errors import ActorError
from actors.kernel.ref import MAX_NAME, Ref
from actors.kernel.supervision import Down, DownReason
from actors.messages import (
    Cancel,
    Generate,
    GetPipelineLoad,
    PipelineStatus,
    PlanChanged,
    Recovered,
    RegisterRouter,
    RequestFailed,
    RouteStatus,
    StreamsMoved,
    Taker,
    Tokens,
    TokensOf,
    WorkloadSeen,
)
from actors.router_candidates import candidate, fit_of, share_of
from actors.stream import MAX_FRUITLESS_RECOVERIES, Failed, Note, Stream
from actors.workload_telling import TellWorkload, WorkloadTeller
from scheduling.pairing import SERVICE, Pairing, RoutingPolicy, Way, pair
from scheduling.pipeline_loads import PipelineLoads
from scheduling.routing import PipelineFit, UsualLengths
from transport.codec import Message
from transport.endpoint import Lane
from transport.errors import TransportError
from transport.frame import Buffer

_log = logging.getLogger(__name__)

READY = "ready"
RETRY_S = 1.0
"""How often one that fell out of reach is looked for, and how long an answer may take."""
EARLY_S = 1.0
"""How long tokens of whoever goes on with a request are kept for those of who began it."""
GOES_ON_AFTER = frozenset({"stage_lost", "pipeline_lost"})
"""Failures that are the pipeline's and not the request's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RouterLimits:
    """Bounds of what waits for a pipeline.

    Attributes:
        max_held: new requests held while no pipeline is up.
        recovery_timeout_s: how long a request waits for one.
    """

    max_held: int = 256
    recovery_timeout_s: float = 60.0


class QueueIsFull(Exception):
    """Every pipeline runs and queues as many requests as it may."""


class NoPipeline(Exception):
    """No pipeline serves now; the text says what is missing."""


class StreamFailed(Exception):
    """A stream ended without a finish reason; `failed` says why."""

    def __init__(self, failed: Failed) -> None:
        super().__init__(failed.reason)
        self.failed = failed


class HeldTooLong(Message, frozen=True, tag="held_too_long"):
    """Does this attempt's successor still wait? The router's note to itself, never on the wire."""

    request: str
    attempt: int


class TokensMissing(Message, frozen=True, tag="tokens_missing"):
    """Did the tokens at a position come? The router's note to itself, never on the wire."""

    request: str
    attempt: int
    position: int


class RouterActor(Actor):
    """Sends requests to pipelines and tokens to streams."""

    def __init__(
        self,
        coordinator: Ref,
        limits: RouterLimits | None = None,
        *,
        pid: int = 0,
        on_plan: Callable[[PlanChanged], None] | None = None,
        policy: RoutingPolicy = SERVICE,
    ) -> None:
        """`policy` picks the pipelines of a request; other ones are for comparison."""
        self._pid, self._policy = pid, policy
        self._tell_plan = on_plan
        self._coordinator = coordinator
        self._limits = limits or RouterLimits()
        self._plan: PlanChanged | None = None
        self._ways: tuple[Way, ...] = ()
        self._routes: dict[tuple[str, str], RouteStatus] = {}
        self._has_been_ready = False
        self._teller: WorkloadTeller
        self._known: set[Ref | None] = set()
        self._watched: set[Ref | None] = set()
        self._streams: dict[str, Stream] = {}
        self._at_pipelines: dict[str, Stream] = {}
        self.loads = PipelineLoads()  # what each pipeline has of `_at_pipelines`
        self._fits: dict[str, PipelineFit] = {}
        self._usual = UsualLengths()
        self._held: dict[str, Stream] = {}
        self.num_recoveries = 0

    async def on_start(self) -> None:
        """Ask the coordinator for the plan, now and whenever it changes."""
        self._teller = WorkloadTeller(
            self._tell_workload,
            lambda delay_s: self.context.schedule(delay_s, TellWorkload()),
            self.context.loop_time(),
        )
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
                self._on_request_failed(message)
            case Recovered():
                self._on_recovered(message)
            case StreamsMoved():
                self._on_moved(message)
            case PlanChanged():
                self._on_plan(message)
            case TokensMissing():
                self._on_tokens_missing(message)
            case HeldTooLong():
                self._on_held_too_long(message)
            case TellWorkload():
                name = str(self.context.self_ref)[-MAX_NAME:]  # which life it is comes last
                self._teller.look(name, self.context.loop_time())
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

    @property
    def streams(self) -> Sequence[Stream]:
        """Every request that is under way."""
        return tuple(self._streams.values())

    def not_ready_reason(self) -> str | None:
        """What is missing before requests can be served, or None."""
        if self._plan is None:
            return "the coordinator has not announced a plan yet"
        if self._plan.missing:
            return "; ".join(self._plan.missing)
        return None if self._open_pipelines() else "no pipeline is ready"

    def room(self) -> tuple[int, int] | None:
        """How many requests the open pipelines work on, and queue; None while there is none."""
        pipelines = self._open_pipelines()
        if not pipelines:
            return None
        return sum(p.max_running for p in pipelines), sum(p.max_waiting for p in pipelines)

    def open(self, generate: Generate) -> Stream:
        """Send a request to the pipeline that should finish it first.

        Where a service that was up has no pipeline for now, it is held until one is up again.

        Raises:
            NoPipeline: none is ready, and no more requests are held.
            QueueIsFull: all are full.
        """
        stream = Stream(generate, self.context.loop_time())
        if self._open_pipelines():
            if not self._send(stream):
                raise QueueIsFull(f"{len(self._streams)} requests are running or queued")
        elif self._has_been_ready and len(self._held) < self._limits.max_held:
            self._hold(stream)
        else:
            held = f"; {len(self._held)} requests wait already" if self._held else ""
            raise NoPipeline(f"{self.not_ready_reason() or 'no pipeline is ready'}{held}")
        self._streams[stream.request] = stream
        self._teller.arrived(self.context.loop_time())
        return stream

    async def next(self, stream: Stream, timeout_s: float) -> TokensOf | Note:
        """Wait for a stream's next tokens, or for news of it.

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
        if self._streams.get(stream.request) is stream:
            self._cancel(stream)
            self._forget(stream)

    def fail_all(self, kind: str, reason: str) -> None:
        """End every stream with an error, as when the service stops."""
        for stream in list(self._streams.values()):
            self._cancel(stream)
            self._fail(stream, kind, reason)

    # --- sending

    def _send(self, stream: Stream) -> bool:
        """Give a stream to a pipeline; False if all are full."""
        open_now = {status.pipeline: status for status in self._open_pipelines()}
        found = self._pairing(stream, tuple(open_now.values()))
        if found is None:
            return False
        status = open_now[found.pipeline]
        assert status.ref is not None
        takers = tuple(
            self._taker(found.pipeline, name, ref)
            for name in found.takers
            if (ref := open_now[name].ref) is not None
        )
        stream.goes_on_at = found.takers[0] if found.takers else ""
        attempt = stream.next_attempt(found.pipeline, status.ref, takers)
        self.context.tell(status.ref, attempt)
        self._at_pipelines[stream.wire_name] = stream
        self._count(stream)
        return True

    def _taker(self, giver: str, name: str, ref: Ref) -> Taker:
        route = self._routes.get((giver, name))
        return Taker(ref) if route is None else Taker(ref, route.encoding)

    def _pairing(self, stream: Stream, statuses: Sequence[PipelineStatus]) -> Pairing | None:
        """Where a request is to begin, and who may go on with it."""
        num_left = stream.generate.max_tokens - len(stream.delivered)
        loads, fits = self.loads, self._fits
        return pair(
            [candidate(s, loads[s.pipeline], fits.get(s.pipeline)) for s in statuses],
            self._ways,
            num_prompt_tokens=len(stream.generate.token_ids) + len(stream.delivered),
            has_decode=num_left > 1,
            usual=self._usual,
            policy=self._policy,
        )

    def _count(self, stream: Stream) -> None:
        """What its pipelines have of a stream has changed."""
        if self._at_pipelines.get(stream.wire_name) is stream:
            self.loads.put(stream.wire_name, share_of(stream))

    def _cancel(self, stream: Stream) -> None:
        if stream.ref is not None:
            self._cancel_at(stream.ref, stream.wire_name)

    def _cancel_at(self, ref: Ref, request: str) -> None:
        self.context.tell(ref, Cancel(request=request), lane=Lane.CONTROL)

    def _forget(self, stream: Stream) -> None:
        self._streams.pop(stream.request, None)
        self._leave(stream)

    def _leave(self, stream: Stream) -> None:
        """Nobody has it any more, and it does not wait to be sent either."""
        self._held.pop(stream.request, None)
        if self._at_pipelines.get(stream.wire_name) is stream:
            del self._at_pipelines[stream.wire_name]
            self.loads.drop(stream.wire_name)
        stream.leave()

    def _fail(self, stream: Stream, kind: str, reason: str) -> None:
        self._forget(stream)
        stream.fail(kind, reason)

    # --- tokens

    def _on_tokens(self, update: TokensOf) -> None:
        stream = self._at_pipelines.get(update.request)
        if stream is None:
            return
        if len(stream.delivered) > 1:  # it should be there by now: it stays where it is
            stream.goes_on_at = ""
        num_recoveries = stream.num_recoveries
        is_whole = stream.accept(update, self.context.loop_time())
        self._count(stream)
        self.num_recoveries += stream.num_recoveries - num_recoveries
        if not is_whole and stream.keep_early(update):
            missing = TokensMissing(stream.request, stream.attempt, len(stream.delivered))
            self.context.schedule(EARLY_S, missing)
        elif not is_whole:
            self._lose_tokens(stream, update.position)
        elif update.finish_reason is not None:
            self._teller.ended(stream)
            lengths = len(stream.generate.token_ids), len(stream.delivered)
            self._usual = self._usual.after(*lengths)
            self._forget(stream)
            self._send_held()
        else:
            for early in stream.take_early():
                self._on_tokens(early)

    def _lose_tokens(self, stream: Stream, upto: int) -> None:
        hole = f"tokens {len(stream.delivered)} to {upto} never came"
        _log.warning("tokens lost pipeline=%s reason=%s", stream.pipeline, hole)
        self._cancel(stream)
        self._go_on(stream, "tokens_lost", hole)

    def _on_tokens_missing(self, note: TokensMissing) -> None:
        """Those in front of what came early should be here by now."""
        stream = self._streams.get(note.request)
        if stream is None or (stream.attempt, len(stream.delivered)) != (
            note.attempt,
            note.position,
        ):
            return
        if stream.early:
            self._lose_tokens(stream, min(early.position for early in stream.early))

    def _on_request_failed(self, failed: RequestFailed) -> None:
        stream = self._at_pipelines.get(failed.request)
        if stream is None:
            return
        if failed.kind in GOES_ON_AFTER:
            self._watched.discard(stream.ref)  # it ends: nothing new for it
            self._go_on(stream, failed.kind, failed.reason)
        elif failed.kind == "queue_full" and stream.attempt > 1:  # it was let in once
            self._leave(stream)
            self._hold(stream)
        else:
            self._fail(stream, failed.kind, failed.reason)

    def _on_recovered(self, news: Recovered) -> None:
        """A pipeline mended itself under its requests: nothing was lost, but they paused."""
        for name in news.requests:
            if (stream := self._at_pipelines.get(name)) is None:
                continue
            stream.note_loss(news.what)
            if stream.num_fruitless > MAX_FRUITLESS_RECOVERIES:
                self._cancel(stream)
                self._fail(stream, "stage_lost", f"{news.what} was lost; {_again(stream)}")

    def _on_moved(self, news: StreamsMoved) -> None:
        """Requests changed hands, as they are; their tokens come from there now.

        Who was not read any more when that happened is not known there to be unread.
        """
        names = {status.ref: status.pipeline for status in self._statuses()}
        for name in news.requests:
            if (stream := self._at_pipelines.get(name)) is None:
                self._cancel_at(news.to, name)
                continue
            stream.ref, stream.goes_on_at, stream.takers = news.to, "", ()
            stream.pipeline = names.get(news.to, stream.pipeline)
            self._count(stream)
        if news.to not in self._watched:  # if it is gone already, the watch says so
            self._watch(news.to)

    # --- going on elsewhere

    def _go_on(self, stream: Stream, kind: str, reason: str) -> None:
        """Have another pipeline, or the next life of this one, continue a request."""
        for taker in stream.takers:  # one may have it already, and we were not told
            self._cancel_at(taker, stream.wire_name)
        self._leave(stream)
        if stream.num_fruitless >= MAX_FRUITLESS_RECOVERIES:
            self._fail(stream, kind, f"{reason}; {_again(stream)}")
            return
        stream.note_loss(kind)
        self._hold(stream)
        self._send_held()

    def _hold(self, stream: Stream) -> None:
        self._held[stream.request] = stream
        stream.held_since = self.context.loop_time()
        note = HeldTooLong(stream.request, stream.attempt)
        self.context.schedule(self._limits.recovery_timeout_s, note)

    def _send_held(self) -> None:
        """Give away whoever waits, the oldest first, as long as there is room."""
        for stream in list(self._held.values()):
            if not self._send(stream):
                return
            del self._held[stream.request]
            if not stream.delivered:
                stream.held_s += self.context.loop_time() - stream.held_since

    def _on_held_too_long(self, note: HeldTooLong) -> None:
        stream = self._held.get(note.request)
        if stream is not None and stream.attempt == note.attempt:
            missing = self.not_ready_reason() or "every pipeline is full"
            waited = f"no pipeline took it for {self._limits.recovery_timeout_s:g} s"
            self._fail(stream, "no_capacity", f"{waited}: {missing}")

    # --- plans

    def _on_plan(self, plan: PlanChanged) -> None:
        if self._plan is not None and plan.epoch < self._plan.epoch:
            return
        self._plan = plan
        self._ways = tuple(_way(route) for route in plan.routes)
        self._routes = {(route.prefill, route.decode): route for route in plan.routes}
        self._teller.want(is_wanted=plan.wants_workload, at_s=self.context.loop_time())
        fits = {status.pipeline: fit_of(status) for status in plan.pipelines}
        self._fits = {name: fit for name, fit in fits.items() if fit is not None}
        if self._tell_plan is not None:
            self._tell_plan(plan)
        for status in plan.pipelines:
            if status.ref is not None and status.ref not in self._known:
                self._watch(status.ref)
        served_by = {stream.ref for stream in self._at_pipelines.values()}
        self._known &= {status.ref for status in plan.pipelines} | served_by
        self._has_been_ready = self._has_been_ready or bool(self._open_pipelines())
        self._send_held()

    def _tell_workload(self, seen: WorkloadSeen) -> None:
        self.context.tell(self._coordinator, seen, lane=Lane.CONTROL)

    def _watch(self, pipeline: Ref) -> None:
        self._known.add(pipeline)
        self._watched.add(pipeline)
        self.context.watch(pipeline)

    def _statuses(self) -> tuple[PipelineStatus, ...]:
        return self._plan.pipelines if self._plan is not None else ()

    def _open_pipelines(self) -> list[PipelineStatus]:
        return [p for p in self._statuses() if p.state == READY and p.ref in self._watched]

    def _on_down(self, down: Down) -> None:
        self._watched.discard(down.ref)
        if down.reason == DownReason.NO_CONNECTION:  # the way may be lost and not the actor
            self.context.start_task(self._look_for(down.ref))
        for stream in [s for s in self._at_pipelines.values() if s.ref == down.ref]:
            reason = f"pipeline {stream.pipeline} was lost ({down.reason})"
            self._go_on(stream, "pipeline_lost", reason)

    async def _look_for(self, ref: Ref) -> None:
        """Find one again that is out of reach, as long as it is wanted.

        Its process counts as lost here, so that another life there may answer; the watch of `ref`
        itself then says so.
        """
        is_coordinator = ref == self._coordinator
        question = self._registration() if is_coordinator else GetPipelineLoad()
        whichever = ref.whichever()
        is_found = False
        while not is_found and (is_coordinator or ref in self._known):
            await asyncio.sleep(RETRY_S)
            is_found = await self._answers(whichever, question)
        if is_found:
            self.context.watch(ref)
            self._watched.add(ref)
            self._send_held()

    async def _answers(self, ref: Ref, question: Message) -> bool:
        try:
            await self.context.ask(ref, question, timeout_s=RETRY_S)
        except (ActorError, TransportError):
            return False
        return True

    def _registration(self) -> RegisterRouter:
        return RegisterRouter(ref=self.context.self_ref, pid=self._pid)


def _way(route: RouteStatus) -> Way:
    return Way(
        prefill=route.prefill,
        decode=route.decode,
        weight=route.weight,
        bytes_per_s=route.bytes_per_s,
    )


def _again(stream: Stream) -> str:
    return f"it was started again {stream.num_fruitless} times without a token"
