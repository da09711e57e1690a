"""Goes over to a recommended plan where that is wished for, worth it, and not too soon.

The one idea: the change is ordered as an operator would order it, one at a time. One that keeps
failing is tried ever more seldom.
"""

import logging
from collections.abc import Callable

from actors.cluster import Cluster
from actors.operations import Operations
from actors.recommending import Recommendation
from scheduling.change_cost import why_not_worth
from scheduling.plan import PipelinePlan, Plan

_log = logging.getLogger(__name__)

MAX_PATIENCE = 32
"""A change that keeps failing is tried ever more seldom, down to this part as often."""


class Follower:
    """Follows recommendations by `AutoPolicy`; `state` says in words what it does, or why not."""

    def __init__(
        self, cluster: Cluster, operations: Operations, on_changed: Callable[[bool], None]
    ) -> None:
        """`on_changed` hears of the end of each change, and whether the plan was reached."""
        self._cluster, self._operations = cluster, operations
        self._on_changed = on_changed
        self._may_change_at = 0.0
        self._num_failures = 0
        self.is_changing = False
        self.state = "nothing was looked into yet"

    def follow(
        self, found: Recommendation | None, renewed: Callable[[], Recommendation]
    ) -> float | None:
        """Change to what was found if it should be; else the seconds after which to ask again.

        `renewed` gives it with the workers of now, which may be others. None means that there is
        nothing to wait for.
        """
        self.state = self._why_not(found)
        if self.state:
            return None
        if not self._cluster.settings.auto.is_on:
            self.state = "recommended; cluster.auto is off"
            return None
        wait_s = self._may_change_at - self._cluster.context.loop_time()
        if wait_s > 0:
            interval_s = self._cluster.settings.auto.interval_s
            self.state = f"the last change was less than {interval_s:g} s ago"
            return wait_s
        renewed_found = renewed()
        if renewed_found.plan is None:
            self.state = renewed_found.reason
            return None
        self._begin(renewed_found.plan)
        return None

    def _begin(self, pipelines: tuple[PipelinePlan, ...]) -> None:
        self.is_changing, self.state = True, "going over to the proposal"
        name = self._cluster.settings.model_name
        plan = Plan(epoch=self._cluster.epoch, model=name, pipelines=pipelines)
        self._cluster.context.start_task(self._change(plan))

    def _why_not(self, found: Recommendation | None) -> str:
        """Why nothing is to be done, in words; empty if something is."""
        if found is None:
            return "nothing to do"
        current, proposed = found.advice.current, found.advice.proposed
        if found.plan is None or found.cost is None or current is None or proposed is None:
            return found.reason
        auto = self._cluster.settings.auto
        return why_not_worth(auto, current.tokens_per_s, proposed.tokens_per_s, found.cost)

    async def _change(self, plan: Plan) -> None:
        _log.info("changing to the recommended plan pipelines=%d", len(plan.pipelines))
        try:
            report = await self._operations.go_over(plan)
        finally:
            self.is_changing = False
        self._num_failures = 0 if report.is_done else self._num_failures + 1
        patience = min(MAX_PATIENCE, 2**self._num_failures)
        interval_s = self._cluster.settings.auto.interval_s
        self._may_change_at = self._cluster.context.loop_time() + interval_s * patience
        if not report.is_done:
            _log.warning("recommended plan not reached reason=%s", report.reason)
        self._on_changed(report.is_done)
