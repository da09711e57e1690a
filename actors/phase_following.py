"""Has phases chosen anew for what routers saw, and flips where that is wished for and worth it.

The one idea: it asks about the pipelines that are ready now, beside the event loop, and follows an
answer only if they are the same still when it comes. What is worth it says `rephasing`; how phases
change says `flips`. After a loss it asks at once, about those that are left.
(ThunderServe, MLSys 2025: light-weight re-scheduling.)
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, TypeAlias

from actors.cluster import Cluster
from actors.messages import READY, WorkloadSeen
from actors.operations import Operations
from actors.phase_question import Found, PhasedService, Question, answer
from actors.placement import ServiceSettings
from actors.rephasing import Rephaser, Rephasing, RephasingSettings
from scheduling.kv_transport import wire_ratio
from scheduling.live import Situation
from scheduling.phases.transfer import KvTransport
from scheduling.plan import PipelinePlan, Route
from scheduling.workload import Workload

_log = logging.getLogger(__name__)

ANSWER_TIMEOUT_S = 30.0
NO_TARGETS = (
    "nothing is proposed: expected planner.ttft_s or planner.tpot_s, the latencies to keep, got "
    "neither"
)
NO_SHAPE = "nothing is proposed: the model's shape is not known"

Compute: TypeAlias = Callable[[Callable[[], Any]], Awaitable[Any]]
"""Runs a blocking function off the event loop."""


class PhaseFollower:
    """Keeps a proposal of phases up to date, and follows it where `cluster.auto` is on."""

    def __init__(
        self,
        cluster: Cluster,
        operations: Operations,
        compute: Compute,
        situation: Callable[[list[PipelinePlan]], Situation],
        on_workload: Callable[[Workload], None],
    ) -> None:
        """`situation` is that of some pipelines; `on_workload` hears what comes, if it is news."""
        self._cluster, self._operations, self._compute = cluster, operations, compute
        self._situation, self._on_workload = situation, on_workload
        targets = cluster.settings.targets
        is_able = targets is not None and cluster.settings.shape is not None
        self._rephaser: Rephaser | None = None
        if targets is not None and is_able:
            transport = transport_of(cluster.settings)
            self._rephaser = Rephaser(RephasingSettings(goal=targets, transport=transport))
        self._known: PhasedService | None = None
        self._is_asking = self._is_told = False
        self._state = "" if is_able else NO_TARGETS if targets is None else NO_SHAPE
        self._num_flips = 0

    @property
    def is_able(self) -> bool:
        """Whether phases can be chosen: there are targets, and the model's shape is known."""
        return self._rephaser is not None

    # --- what comes

    def take(self, message: WorkloadSeen) -> None:
        """News of a router."""
        if self._rephaser is None:
            return
        shift = self._rephaser.take(message, self._now)
        if shift is not None:
            self._is_told = False
            _log.info("requests have changed stream=%s is_up=%s", shift.stream, shift.is_up)
        self.note()

    def note(self) -> None:
        """Something may have changed: ask, if it is time."""
        service = self._service()
        if self._rephaser is None or service is None or self._reason_to_wait():
            return
        self._notice(self._rephaser, service)
        if self._is_asking:
            return
        question = self._rephaser.question(service, self._now)
        if question is not None:
            self._is_asking = True
            self._cluster.context.start_task(self._ask(self._rephaser, question))

    def _notice(self, rephaser: Rephaser, service: PhasedService) -> None:
        """Pipelines came, went, were cut anew, or serve other phases than when we looked last."""
        known, self._known = self._known, service
        if known is None:
            return
        if _where(known) != _where(service):
            rephaser.changed()
        elif known.phases != service.phases:
            rephaser.flipped()

    def _service(self) -> PhasedService | None:
        """What serves now; None while nothing does, or the planner knows too little of it."""
        plans = [r.plan for r in self._cluster.pipelines.values() if r.state == READY]
        if not plans or self._rephaser is None:
            return None
        return PhasedService(
            names=tuple(plan.id for plan in plans),
            phases=tuple(plan.phase for plan in plans),
            situation=self._situation(plans),
        )

    def _reason_to_wait(self) -> str:
        if self._cluster.failure is not None:
            return "the service has failed"
        ready = [r for r in self._cluster.pipelines.values() if r.state == READY]
        if self._operations.is_busy or any(record.is_busy for record in ready):
            return "a change is under way"
        return ""

    # --- asking

    async def _ask(self, rephaser: Rephaser, question: Question) -> None:
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                found: Found = await self._compute(partial(answer, question))
        except TimeoutError:
            failure = f"phases were not chosen within {ANSWER_TIMEOUT_S:g} s"
            found = Found(question=question, failure=failure)
        finally:
            self._is_asking = False
        if not self._is_told:
            self._is_told = True
            self._on_workload(question.observed.workload())
        now = self._service()
        if now is None or not _is_same(now, question.service) or self._reason_to_wait():
            return  # it was about pipelines that are others by now
        self._state = ""
        rephasing = rephaser.decide(found, self._now)
        if rephasing is not None:
            self._follow(rephasing)

    def _follow(self, found: Rephasing) -> None:
        if not found.is_due:
            return
        if not self._cluster.settings.auto.is_on:
            self._state = "recommended; cluster.auto is off"
            return
        _log.info("phases are chosen anew reason=%r", found.reason)
        report = self._operations.flip(found.phases, _routes(found))
        if report.is_done:
            self._num_flips += 1
        else:
            self._state = f"not flipped: {report.reason}"
            _log.warning("phases not flipped reason=%s", report.reason)

    @property
    def _now(self) -> float:
        return self._cluster.context.loop_time()

    # --- what is told

    def report(self) -> dict[str, Any]:
        """What serves, what was seen and what is proposed, as JSON would hold it."""
        plans = [record.plan for record in self._cluster.pipelines.values()]
        targets = self._cluster.settings.targets
        told = {
            "ttft_s": None if targets is None else targets.ttft_s,
            "tpot_s": None if targets is None else targets.tpot_s,
            "phases": {plan.id: plan.phase for plan in plans},
            "num_flips": self._num_flips,
        }
        if self._rephaser is None:
            return {**told, "state": self._state, "observed": None, "proposed": None}
        found = {**told, **self._rephaser.report()}
        waits = self._reason_to_wait()
        state = f"waiting: {waits}" if waits else self._state
        return {**found, "state": state or found["state"]}


def transport_of(settings: ServiceSettings) -> KvTransport:
    """How hand-offs are forecast: blocks travel while the prompt is computed.

    What `auto` chooses may be another encoding on each way, so that none is counted on.
    """
    encoding, layout = settings.kv_transport, settings.kv_layout
    if encoding == "auto" or layout is None:
        return KvTransport(overlaps=True)
    return KvTransport(ratio=wire_ratio(encoding, layout), overlaps=True)


def _where(service: PhasedService) -> tuple[Any, ...]:
    return service.names, service.situation.layout


def _is_same(one: PhasedService, other: PhasedService) -> bool:
    return _where(one) == _where(other) and one.phases == other.phases


def _routes(found: Rephasing) -> list[Route]:
    """The ways between pipelines; who serves both has none to itself."""
    return [
        Route(prefill=prefill, decode=decode, weight=share)
        for (prefill, decode), share in found.routes.items()
        if prefill != decode and share > 0
    ]
