"""Which pipelines a request goes to, by the newest plan and by how long requests usually are.

The choice itself is `scheduling.pairing`; here stands what it is told: what each pipeline is up to,
and what is known of the ways between them. It never waits, and knows no actor but by its name.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from actors.kernel.ref import Ref
from actors.messages import PipelineStatus, PlanChanged, RouteStatus, Taker
from actors.stream import Stream
from scheduling.batch_times import BatchTimes
from scheduling.pairing import Candidate, Pairing, RoutingPolicy, Way, pair, takers_of
from scheduling.pipeline_loads import Counts, PipelineLoads, Share
from scheduling.routing import PipelineFit, PipelineLoad, UsualLengths


class PipelineChoice:
    """Picks pipelines; `policy` is how that is done among those that could have a request."""

    def __init__(self, policy: RoutingPolicy) -> None:
        self._policy = policy
        self._usual = UsualLengths()
        self._routes: Mapping[tuple[str, str], RouteStatus] = MappingProxyType({})
        self._ways: tuple[Way, ...] = ()
        self._fits: Mapping[str, PipelineFit] = MappingProxyType({})

    def take(self, plan: PlanChanged) -> None:
        """Choose by this plan from now on."""
        self._routes = {(route.prefill, route.decode): route for route in plan.routes}
        self._ways = tuple(_way(route) for route in plan.routes)
        fits = {status.pipeline: _fit_of(status) for status in plan.pipelines}
        self._fits = {name: fit for name, fit in fits.items() if fit is not None}

    def learn(self, stream: Stream) -> None:
        """A request has ended in order: this is how long they are."""
        self._usual = self._usual.after(len(stream.generate.token_ids), len(stream.delivered))

    def pairing(
        self, stream: Stream, statuses: Sequence[PipelineStatus], loads: PipelineLoads
    ) -> Pairing | None:
        """Where a request is to begin, and who may go on with it; None if all are full."""
        return pair(
            self._candidates(statuses, loads),
            self._ways,
            num_prompt_tokens=stream.num_tokens,
            has_decode=stream.num_left > 1,
            usual=self._usual,
            policy=self._policy,
        )

    def takers(
        self, stream: Stream, statuses: Sequence[PipelineStatus], loads: PipelineLoads
    ) -> tuple[str, ...]:
        """Who may go on with a request that a prefill pipeline has, best first."""
        if stream.num_left <= 1:
            return ()
        candidates = self._candidates(statuses, loads)
        return takers_of(stream.pipeline, candidates, self._ways, num_tokens=stream.num_tokens)

    def _candidates(
        self, statuses: Sequence[PipelineStatus], loads: PipelineLoads
    ) -> list[Candidate]:
        return [_candidate(s, loads[s.pipeline], self._fits.get(s.pipeline)) for s in statuses]

    def taker(self, giver: str, name: str, ref: Ref) -> Taker:
        """One that may go on with a request, and how its KV travels there."""
        route = self._routes.get((giver, name))
        return Taker(ref) if route is None else Taker(ref, route.encoding)


def share_of(stream: Stream) -> Share:
    """What pipelines have of a stream; who is to come to one counts there as well."""
    return Share(
        pipeline=stream.pipeline,
        goes_on_at=stream.goes_on_at,
        num_queued_tokens=stream.num_queued_tokens,
        num_resident_tokens=stream.num_tokens,
    )


def _way(route: RouteStatus) -> Way:
    return Way(
        prefill=route.prefill,
        decode=route.decode,
        weight=route.weight,
        bytes_per_s=route.bytes_per_s,
    )


def _fit_of(status: PipelineStatus) -> PipelineFit | None:
    """What requests may be timed by in a pipeline; None if its times or its KV are not known."""
    if status.times is None or not status.kv_tokens or not status.max_running:
        return None
    return PipelineFit(
        times=BatchTimes(prefill=status.times.prefill, decode=status.times.decode),
        kv_tokens=status.kv_tokens,
        max_running=status.max_running,
    )


def _candidate(status: PipelineStatus, counts: Counts, fit: PipelineFit | None) -> Candidate:
    """A pipeline that is up, with what it has before it."""
    is_decode = status.serves == "decode"
    load = PipelineLoad(
        pipeline=status.pipeline,
        num_queued_tokens=counts.num_queued_tokens,
        num_running=counts.num_requests,
        num_resident_tokens=counts.num_resident_tokens,
        num_free_tokens=status.kv_tokens - counts.num_resident_tokens if is_decode else None,
        fit=fit,
    )
    has_room = counts.num_requests < status.max_running + status.max_waiting
    return Candidate(load=load, phase=status.serves, has_room=has_room)
