"""Whether another plan would serve more: looked into whenever the cluster has changed, and told.

The search runs beside the event loop, for a time; what it finds is kept with what the change would
cost. Where that is wished for, `following` orders the change. It never moves anything itself.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any, TypeAlias

from actors.capacities import Capacities
from actors.cluster import Cluster
from actors.following import Follower
from actors.operations import Operations
from actors.plan_report import told_planner
from actors.recommending import Recommendation, recommendation
from actors.situation import Measured, ends_of, not_calm, situation_of, unmeasured
from actors.step_report import MeasuredStages
from scheduling.batch_times import BatchTimes
from scheduling.clock import monotonic
from scheduling.errors import SchedulingError
from scheduling.learnt_rates import LearntRate
from scheduling.live import Advice, Situation, advise
from scheduling.nearness import rounded
from scheduling.plan import PipelinePlan
from scheduling.roofline import LinkRate
from scheduling.solvers.interface import Budget
from scheduling.split import StageDevice
from scheduling.workload import Workload
from transport.codec import Message

_log = logging.getLogger(__name__)

SETTLE_S = 1.0
"""The cluster stays as it is for so long before another plan is looked for."""
SEARCH_S = 2.0
SEARCH_TIMEOUT_S = 60.0
"""A search looks at its clock between steps of its work, which may be long on a busy machine."""

Compute: TypeAlias = Callable[[Callable[[], Advice]], Awaitable[Advice]]
"""Runs a blocking function off the event loop."""


class LookAtPlan(Message, frozen=True, tag="look_at_plan"):
    """Would another plan serve more? The coordinator's note to itself, never on the wire."""


def search(situation: Situation) -> Advice:
    """Look for a better plan; blocking, for about `SEARCH_S`."""
    return advise(situation, Budget(seconds=SEARCH_S, clock=monotonic))


class Replanner:
    """Keeps a recommendation up to date, and has it followed where that is wished for."""

    def __init__(
        self, cluster: Cluster, operations: Operations, compute: Compute = asyncio.to_thread
    ) -> None:
        self._cluster = cluster
        self._operations = operations
        self._compute = compute
        self._measured = Measured()
        self._workload: Workload | None = None
        self._seen: Situation | None = None
        self._found: Recommendation | None = None
        self._follower = Follower(cluster, operations, self._on_changed)
        self._is_searching = False
        self._next_look: float | None = None
        self._capacities = Capacities()

    # --- when to look

    def note(self) -> None:
        """Something may have changed: look into it once it has settled."""
        self._measured = self._measured.after(self._cluster.members)
        if self._reason_to_wait():
            return
        settings = self._cluster.settings
        if not settings.may_be_replanned:
            why = "the plan is fixed" if settings.is_fixed else "the model's shape is not known"
            self._follower.state = f"nothing is proposed: {why}"
            return
        if settings.auto.is_on:
            self._measure_the_rest()
        if self._situation() != self._seen:
            self._look_in(SETTLE_S)
        elif not self._is_searching:
            self._follow()

    def look(self) -> None:
        """Search, if the situation is not the one that was looked into last."""
        self._next_look = None
        if self._reason_to_wait() or self._is_searching:
            return
        if not self._cluster.settings.may_be_replanned:
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

    def take_rates(self, learnt: Mapping[str, LearntRate]) -> None:
        """What kinds of devices reach, by the steps of their stages."""
        self._measured = self._measured.with_learnt(learnt)
        self.note()

    def take_workload(self, workload: Workload) -> None:
        """What requests were like of late; ones of nearly the same means are no news."""
        if self._workload is None or _means(workload) != _means(self._workload):
            self._workload = workload
            self.note()

    def memory(self) -> dict[tuple[str, str], int]:
        """Bytes of each device that was measured, by node and device."""
        return self._measured.after(self._cluster.members).memory

    def rates_at_start(self) -> dict[str, StageDevice]:
        """What devices of each kind were measured to do when their workers started."""
        return self._measured.after(self._cluster.members).at_start

    def batch_times(self) -> dict[str, BatchTimes]:
        """How long batches take in each pipeline, by what is known now."""
        if self._cluster.settings.shape is None:
            return {}
        return self._capacities.of(self._situation(), tuple(self._cluster.pipelines))

    def _look_in(self, delay_s: float) -> None:
        at = self._cluster.context.loop_time() + delay_s
        if self._next_look is None or at < self._next_look:
            self._next_look = at
            self._cluster.context.schedule(delay_s, LookAtPlan())

    def _reason_to_wait(self) -> str:
        cluster = self._cluster
        if cluster.failure is not None:
            return "the service has failed"
        if self._follower.is_changing or self._operations.is_busy:
            return "a change is under way"
        return not_calm(cluster.pipelines.values(), cluster.members)

    def _situation(self) -> Situation:
        return self.situation_of([record.plan for record in self._cluster.pipelines.values()])

    def situation_of(self, plans: list[PipelinePlan]) -> Situation:
        """Some of the pipelines as the planner sees them."""
        cluster = self._cluster
        return situation_of(
            cluster.settings, cluster.members, plans, self._measured, self._workload
        )

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
        self._seen, self._found = situation, self._renewed(advice)
        _log.info(
            "plan looked into current_tokens_per_s=%.1f proposed_tokens_per_s=%.1f spent_s=%.2f",
            0.0 if advice.current is None else advice.current.tokens_per_s,
            0.0 if advice.proposed is None else advice.proposed.tokens_per_s,
            advice.spent_s,
        )
        self.note()

    def link_rate(self, one: str, other: str) -> float | None:
        """Bytes a second between two nodes, as measured; None if that was not done yet."""
        found = self._measured.links.get(ends_of(one, other))
        return None if found is None else found.bytes_per_s

    def _renewed(self, advice: Advice) -> Recommendation:
        return recommendation(self._cluster, self._measured, advice)

    def _follow(self) -> None:
        wait_s = self._follower.follow(self._found, self._renew)
        if wait_s is not None:
            self._look_in(wait_s)

    def _renew(self) -> Recommendation:
        assert self._found is not None
        self._found = self._renewed(self._found.advice)
        return self._found

    def _on_changed(self, is_done: bool) -> None:
        if not is_done:
            self._seen = None  # whatever stood against it, look at the cluster anew
        self.note()

    # --- what is told

    def report(self, measured: MeasuredStages = ()) -> dict[str, Any]:
        """What was found, and beside it what stages measured, as JSON would hold it."""
        cluster = self._cluster
        is_stale = cluster.settings.may_be_replanned and (
            not cluster.pipelines or self._situation() != self._seen
        )
        waits = self._reason_to_wait()
        state = f"waiting: {waits}" if waits else self._follower.state
        return {
            **told_planner(cluster, self._found, self._measured, measured),
            "state": state,
            "is_stale": is_stale,
        }


def _means(workload: Workload) -> tuple[float, float]:
    return rounded(workload.mean_prompt), rounded(workload.mean_output)


def _nothing(reason: str) -> Advice:
    _log.warning("no plan recommended reason=%s", reason)
    return Advice(current=None, proposed=None, reason=reason)
