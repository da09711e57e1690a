"""Whether another plan would serve more: looked into whenever the cluster has changed, and told.

The search runs beside the event loop, for a time; what it finds is kept with what the change would
cost. Where that is wished for (`AutoPolicy`), the change is ordered as an operator would order it,
while nothing else changes and not too often. It never moves anything itself.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

from actors.cluster import Cluster
from actors.operations import Operations
from actors.plan_report import gain_of, told_cost, told_prediction
from actors.situation import Measured, ends_of, not_calm, situation_of, unmeasured
from actors.step_report import MeasuredStages, mean_step_s, total_tokens_per_s
from actors.worker_choice import with_workers
from scheduling.change_cost import ChangeCost, cost_of_change, why_not_worth
from scheduling.clock import monotonic
from scheduling.cluster import WITHIN_NODE, WITHIN_SITE
from scheduling.errors import SchedulingError
from scheduling.live import Advice, Situation, advise
from scheduling.plan import PipelinePlan, Plan
from scheduling.roofline import LinkRate
from scheduling.solvers.interface import Budget
from transport.codec import Message

_log = logging.getLogger(__name__)

SETTLE_S = 1.0
"""The cluster stays as it is for so long before another plan is looked for."""
SEARCH_S = 2.0
SEARCH_TIMEOUT_S = 60.0
"""A search looks at its clock between steps of its work, which may be long on a busy machine."""
START_S = 5.0
"""What a worker takes to start, until one was measured."""
PAUSE_S = 0.5
"""What a change pauses a pipeline for, until one was measured."""
MAX_PATIENCE = 32
"""A change that keeps failing is tried ever more seldom, down to this part as often."""

Compute: TypeAlias = Callable[[Callable[[], Advice]], Awaitable[Advice]]
"""Runs a blocking function off the event loop."""


class LookAtPlan(Message, frozen=True, tag="look_at_plan"):
    """Would another plan serve more? The coordinator's note to itself, never on the wire."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recommendation:
    """What was found for a situation.

    Attributes:
        advice: what serves and what would, both as predicted.
        plan: the proposal with workers; None where there is none, or it cannot be reached.
        cost: what going over to it takes.
        reason: why there is no plan.
    """

    advice: Advice
    plan: tuple[PipelinePlan, ...] | None
    cost: ChangeCost | None
    reason: str


def search(situation: Situation) -> Advice:
    """Look for a better plan; blocking, for about `SEARCH_S`."""
    return advise(situation, Budget(seconds=SEARCH_S, clock=monotonic))


class Replanner:
    """Keeps a recommendation up to date, and follows it where that is wished for."""

    def __init__(
        self, cluster: Cluster, operations: Operations, compute: Compute = asyncio.to_thread
    ) -> None:
        self._cluster = cluster
        self._operations = operations
        self._compute = compute
        self._measured = Measured()
        self._seen: Situation | None = None
        self._found: Recommendation | None = None
        self._is_searching = False
        self._is_changing = False
        self._next_look: float | None = None
        self._may_change_at = 0.0
        self._num_failures = 0
        self._state = "nothing was looked into yet"

    # --- when to look

    def note(self) -> None:
        """Something may have changed: look into it once it has settled."""
        self._measured = self._measured.after(self._cluster.members)
        if self._reason_to_wait():
            return
        if self._cluster.settings.auto.is_on:
            self._measure_the_rest()
        if self._cluster.settings.shape is None:
            self._state = "nothing is proposed: the model's shape is not known"
        elif self._situation() != self._seen:
            self._look_in(SETTLE_S)
        elif not self._is_searching:
            self._follow()

    def look(self) -> None:
        """Search, if the situation is not the one that was looked into last."""
        self._next_look = None
        if self._reason_to_wait() or self._is_searching or self._cluster.settings.shape is None:
            return
        situation = self._situation()
        if situation == self._seen:
            self._follow()
            return
        self._is_searching = True
        self._cluster.context.start_task(self._search(situation))

    def take_link(self, one: str, other: str, rate: LinkRate) -> None:
        """What was measured between two nodes."""
        self._measured = self._measured.with_link(one, other, rate)
        self.note()

    def memory(self) -> dict[tuple[str, str], int]:
        """Bytes of each device that was measured, by node and device."""
        return self._measured.after(self._cluster.members).memory

    def _look_in(self, delay_s: float) -> None:
        at = self._cluster.context.loop_time() + delay_s
        if self._next_look is None or at < self._next_look:
            self._next_look = at
            self._cluster.context.schedule(delay_s, LookAtPlan())

    def _reason_to_wait(self) -> str:
        cluster = self._cluster
        if cluster.failure is not None:
            return "the service has failed"
        if self._is_changing or self._operations.is_busy:
            return "a change is under way"
        return not_calm(cluster.pipelines.values(), cluster.members)

    def _situation(self) -> Situation:
        cluster = self._cluster
        plans = [record.plan for record in cluster.pipelines.values()]
        return situation_of(cluster.settings, cluster.members, plans, self._measured)

    def _measure_the_rest(self) -> None:
        """Start a worker on each device of which nothing is known; it ends once it has told."""
        slots = self._cluster.members.slots.values()
        coming = {
            (slot.node, slot.device)
            for slot in slots
            if slot.worker in self._cluster.members.starting
        }
        for node, device in unmeasured(self._cluster.members, self._measured):
            if (node, device) not in coming:
                self._cluster.start_worker_on(node, device)

    # --- what would be better

    async def _search(self, situation: Situation) -> None:
        try:
            async with asyncio.timeout(SEARCH_TIMEOUT_S):
                advice = await self._compute(partial(search, situation))
        except TimeoutError:
            advice = _nothing(f"the search did not end within {SEARCH_TIMEOUT_S:g} s")
        except (SchedulingError, ValueError) as error:
            advice = _nothing(f"the search failed: {error}")
        finally:
            self._is_searching = False
        self._seen, self._found = situation, self._recommendation(advice)
        _log.info(
            "plan looked into current_tokens_per_s=%.1f proposed_tokens_per_s=%.1f spent_s=%.2f",
            0.0 if advice.current is None else advice.current.tokens_per_s,
            0.0 if advice.proposed is None else advice.proposed.tokens_per_s,
            advice.spent_s,
        )
        self.note()

    def _recommendation(self, advice: Advice) -> Recommendation:
        if advice.proposed is None:
            return Recommendation(advice=advice, plan=None, cost=None, reason=advice.reason)
        cluster = self._cluster
        present = [record.plan for record in cluster.pipelines.values()]
        try:
            plans = with_workers(
                advice.proposed.layout,
                present,
                cluster.members,
                cluster.settings,
                self._measured.memory,
            )
        except SchedulingError as error:
            reason = f"the proposal cannot be reached: {error}"
            return Recommendation(advice=advice, plan=None, cost=None, reason=reason)
        cost = cost_of_change(
            present,
            plans,
            cluster.settings.cost,
            load_bytes_per_s=cluster.settings.max_weight_bytes_per_s,
            bandwidth=self._bandwidth,
            start_s=START_S,
            pause_s=self._pause_s(),
        )
        return Recommendation(advice=advice, plan=plans, cost=cost, reason=advice.reason)

    def link_rate(self, one: str, other: str) -> float | None:
        """Bytes a second between two nodes, as measured; None if that was not done yet."""
        found = self._measured.links.get(ends_of(one, other))
        return None if found is None else found.bytes_per_s

    def _bandwidth(self, one: str, other: str) -> float:
        if one == other:
            return WITHIN_NODE.bytes_per_s
        return self._measured.links.get(ends_of(one, other), WITHIN_SITE).bytes_per_s

    def _pause_s(self) -> float:
        """The longest that a pipeline's last change took from its pause to its end."""
        told = [
            sum(p.duration_s for p in change.phases if p.phase in ("pause", "delta", "commit"))
            for record in self._cluster.pipelines.values()
            if (change := record.last_change) is not None
        ]
        return max(told, default=PAUSE_S)

    # --- following it

    def _follow(self) -> None:
        """Change to the proposal if that is wished for, worth it, and not too soon."""
        found, policy = self._found, self._cluster.settings.auto
        if found is None or found.plan is None or found.cost is None:
            self._state = "nothing to do" if found is None else found.reason
            return
        self._state = self._why_not(found)
        if self._state or not policy.is_on:
            self._state = self._state or "recommended; cluster.auto is off"
            return
        wait_s = self._may_change_at - self._cluster.context.loop_time()
        if wait_s > 0:
            self._state = f"the last change was less than {policy.interval_s:g} s ago"
            self._look_in(wait_s)
            return
        found = self._found = self._recommendation(found.advice)  # workers may be others by now
        if found.plan is None:
            self._state = found.reason
            return
        self._is_changing, self._state = True, "going over to the proposal"
        plan = Plan(
            epoch=self._cluster.epoch,
            model=self._cluster.settings.model_name,
            pipelines=found.plan,
        )
        self._cluster.context.start_task(self._change(plan))

    def _why_not(self, found: Recommendation) -> str:
        current, proposed = found.advice.current, found.advice.proposed
        if current is None:
            return found.reason
        assert proposed is not None
        assert found.cost is not None
        auto = self._cluster.settings.auto
        return why_not_worth(auto, current.tokens_per_s, proposed.tokens_per_s, found.cost)

    async def _change(self, plan: Plan) -> None:
        _log.info("changing to the recommended plan pipelines=%d", len(plan.pipelines))
        interval_s = self._cluster.settings.auto.interval_s
        try:
            report = await self._operations.go_over(plan)
        finally:
            self._is_changing = False
        self._num_failures = 0 if report.is_done else self._num_failures + 1
        patience = min(MAX_PATIENCE, 2**self._num_failures)
        self._may_change_at = self._cluster.context.loop_time() + interval_s * patience
        if not report.is_done:
            _log.warning("recommended plan not reached reason=%s", report.reason)
            self._seen = None  # whatever stood against it, look at the cluster anew
        self.note()

    # --- what is told

    def report(self, measured: MeasuredStages = ()) -> dict[str, Any]:
        """What was found, and beside it what stages measured, as JSON would hold it."""
        found, auto = self._found, self._cluster.settings.auto
        is_stale = self._cluster.settings.shape is not None and (
            not self._cluster.pipelines or self._situation() != self._seen
        )
        waits = self._reason_to_wait()
        return {
            "auto": auto.is_on,
            "horizon_s": auto.horizon_s,
            "interval_s": auto.interval_s,
            "min_gain": auto.min_gain,
            "state": f"waiting: {waits}" if waits else self._state,
            "is_stale": is_stale,
            "current": self._told_current(found, measured),
            "proposed": None if found is None else told_prediction(found.advice.proposed),
            "plan": None if found is None else self._told_plan(found),
            "gain": None if found is None else gain_of(found.advice),
            "cost": None if found is None or found.cost is None else told_cost(found.cost),
            "links": [
                {
                    "between": list(ends),
                    "latency_s": rate.latency_s,
                    "bytes_per_s": rate.bytes_per_s,
                }
                for ends, rate in sorted(self._measured.links.items(), key=lambda item: item[0])
            ],
            "unmeasured": [
                f"{device} of node {node}"
                for node, device in unmeasured(self._cluster.members, self._measured)
            ],
        }

    def _told_current(
        self, found: Recommendation | None, measured: MeasuredStages
    ) -> dict[str, Any] | None:
        told = None if found is None else told_prediction(found.advice.current)
        if told is None:
            return None
        plans = [record.plan for record in self._cluster.pipelines.values()]
        told["measured_tokens_per_s"] = total_tokens_per_s(plans, measured)
        for pipeline in told["pipelines"]:
            for stage in pipeline["stages"]:
                place = (stage["node"], stage["device"], *stage["layers"])
                stage["measured_step_s"] = mean_step_s(measured, *place)
        return told

    def _told_plan(self, found: Recommendation) -> dict[str, Any] | None:
        if found.plan is None:
            return None
        name = self._cluster.settings.model_name
        return Plan(epoch=self._cluster.epoch, model=name, pipelines=found.plan).to_dict()


def _nothing(reason: str) -> Advice:
    _log.warning("no plan recommended reason=%s", reason)
    return Advice(current=None, proposed=None, reason=reason)
