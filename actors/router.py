"""The router: picks the pipeline for each request and keeps the stream of its tokens whole.

It lives in the gateway's process. It keeps prompt and delivered tokens of each request, so that a
request whose pipeline is lost goes on at the next one that is up, from where its reader is. While
none is up, requests are held, up to a bound and for a time. It never knows text or HTTP.

This actor is what the gateway calls, and says who hears what: which pipelines are up is for
`reach`, which one a request goes to for `pipeline_choice`, where each request is for
`request_places`, and what comes back of it for `deliveries`.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from actors.deliveries import Deliveries, TokensMissing
from actors.kernel.actor import Actor
from actors.kernel.ref import MAX_NAME, Ref
from actors.kernel.supervision import Down, DownReason
from actors.messages import (
    Generate,
    PlanChanged,
    Recovered,
    RequestFailed,
    StreamsMoved,
    Tokens,
    TokensOf,
    WorkloadSeen,
)
from actors.pipeline_choice import PipelineChoice
from actors.reach import Reach
from actors.request_places import HeldTooLong, RequestPlaces
from actors.stream import Failed, Note, Stream
from actors.workload_telling import TellWorkload, WorkloadTeller
from scheduling.pairing import SERVICE, RoutingPolicy
from scheduling.pipeline_loads import PipelineLoads
from transport.codec import Message
from transport.endpoint import Lane
from transport.frame import Buffer

_log = logging.getLogger(__name__)


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
        self._coordinator, self._tell_plan = coordinator, on_plan
        limits = limits or RouterLimits()
        self._max_held = limits.max_held
        self._teller: WorkloadTeller  # begins to count when the router starts
        self._choice = PipelineChoice(policy)
        self._reach = Reach(coordinator, pid, lambda: self._places.send_held())
        self._places = RequestPlaces(self._reach, self._choice, limits.recovery_timeout_s)
        self._deliveries = Deliveries(self._places, self._reach, self._on_end)

    async def on_start(self) -> None:
        """Ask the coordinator for the plan, now and whenever it changes."""
        self._reach.context = self._places.context = self._deliveries.context = self.context
        self._teller = WorkloadTeller(
            self._tell_workload,
            lambda delay_s: self.context.schedule(delay_s, TellWorkload()),
            self.context.loop_time(),
        )
        self._reach.register()

    async def receive(
        self, message: Message, sender: Ref | None, buffers: Sequence[Buffer]
    ) -> Message | None:
        """Take tokens, failures, plans and the news of lost pipelines."""
        match message:
            case Tokens():
                for update in message.updates:
                    self._deliveries.on_tokens(update)
            case RequestFailed():
                self._deliveries.on_failed(message)
            case Recovered():
                self._deliveries.on_recovered(message)
            case StreamsMoved():
                self._deliveries.on_moved(message)
            case TokensMissing():
                self._deliveries.on_tokens_missing(message)
            case HeldTooLong():
                self._places.on_held_too_long(message)
            case PlanChanged():
                self._on_plan(message)
            case Down():
                self._on_down(message)
            case TellWorkload():
                name = str(self.context.self_ref)[-MAX_NAME:]  # which life it is comes last
                self._teller.look(name, self.context.loop_time())
            case _:
                _log.warning("unexpected message type=%s", type(message).__name__)
        return None

    # --- what the gateway calls

    @property
    def plan(self) -> PlanChanged | None:
        """The newest plan the coordinator told us, if any."""
        return self._reach.plan

    @property
    def streams(self) -> Sequence[Stream]:
        """Every request that is under way."""
        return self._places.streams

    @property
    def loads(self) -> PipelineLoads:
        """What each pipeline has of them."""
        return self._places.loads

    @property
    def num_recoveries(self) -> int:
        """How often a request went on after a loss."""
        return self._deliveries.num_recoveries

    def not_ready_reason(self) -> str | None:
        """What is missing before requests can be served, or None."""
        return self._reach.not_ready_reason()

    def room(self) -> tuple[int, int] | None:
        """How many requests the open pipelines work on, and queue; None while there is none."""
        pipelines = self._reach.open_pipelines()
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
        if self._reach.open_pipelines():
            if not self._places.send(stream):
                raise QueueIsFull(f"{len(self.streams)} requests are running or queued")
        elif self._reach.has_been_ready and self._places.num_held < self._max_held:
            self._places.hold(stream)
        else:
            num_held = self._places.num_held
            held = f"; {num_held} requests wait already" if num_held else ""
            raise NoPipeline(f"{self.not_ready_reason() or 'no pipeline is ready'}{held}")
        self._places.begin(stream)
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
        if self._places.named(stream.request) is stream:
            self._places.cancel(stream)
            self._places.forget(stream)

    def fail_all(self, kind: str, reason: str) -> None:
        """End every stream with an error, as when the service stops."""
        for stream in self.streams:
            self._places.cancel(stream)
            self._places.fail(stream, kind, reason)

    # --- plans

    def _on_plan(self, plan: PlanChanged) -> None:
        if self.plan is not None and plan.epoch < self.plan.epoch:
            return
        self._choice.take(plan)
        self._reach.take(plan, self._places.busy())
        self._teller.want(is_wanted=plan.wants_workload, at_s=self.context.loop_time())
        if self._tell_plan is not None:
            self._tell_plan(plan)
        self._places.send_held()
        self._places.hand_on()

    def _on_down(self, down: Down) -> None:
        self._reach.lose(down.ref)
        if down.reason == DownReason.NO_CONNECTION:  # the way may be lost and not the actor
            self._reach.look_for(down.ref)
        self._deliveries.on_actor_lost(down.ref, str(down.reason))

    # --- what is learnt of requests

    def _on_end(self, stream: Stream) -> None:
        self._teller.ended(stream)
        self._choice.learn(stream)

    def _tell_workload(self, seen: WorkloadSeen) -> None:
        self.context.tell(self._coordinator, seen, lane=Lane.CONTROL)
