"""What a proposal means for this cluster: the workers it would take, and what that costs."""

from collections.abc import Mapping
from dataclasses import dataclass

from actors.cluster import Cluster
from actors.situation import Measured, ends_of
from actors.worker_choice import with_workers
from scheduling.change_cost import ChangeCost, cost_of_change
from scheduling.cluster import WITHIN_NODE, WITHIN_SITE
from scheduling.errors import SchedulingError
from scheduling.live import Advice
from scheduling.plan import PipelinePlan
from scheduling.roofline import LinkRate

START_S = 5.0
"""What a worker takes to start, until one was measured."""
PAUSE_S = 0.5
"""What a change pauses a pipeline for, until one was measured."""
PAUSE_PHASES = ("pause", "delta", "commit")


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


def recommendation(cluster: Cluster, measured: Measured, advice: Advice) -> Recommendation:
    """An advice with the workers that would serve by it now, and what that takes."""
    if advice.proposed is None:
        return Recommendation(advice=advice, plan=None, cost=None, reason=advice.reason)
    present = [record.plan for record in cluster.pipelines.values()]
    try:
        plans = with_workers(
            advice.proposed.layout, present, cluster.members, cluster.settings, measured.memory
        )
    except SchedulingError as error:
        reason = f"the proposal cannot be reached: {error}"
        return Recommendation(advice=advice, plan=None, cost=None, reason=reason)
    cost = cost_of_change(
        present,
        plans,
        cluster.settings.cost,
        load_bytes_per_s=cluster.settings.max_weight_bytes_per_s,
        bandwidth=lambda one, other: _bytes_per_s(measured.links, one, other),
        start_s=START_S,
        pause_s=_pause_s(cluster),
    )
    return Recommendation(advice=advice, plan=plans, cost=cost, reason=advice.reason)


def _bytes_per_s(links: Mapping[tuple[str, str], LinkRate], one: str, other: str) -> float:
    if one == other:
        return WITHIN_NODE.bytes_per_s
    return links.get(ends_of(one, other), WITHIN_SITE).bytes_per_s


def _pause_s(cluster: Cluster) -> float:
    """The longest that a pipeline's last change took from its pause to its end."""
    told = [
        sum(phase.duration_s for phase in change.phases if phase.phase in PAUSE_PHASES)
        for record in cluster.pipelines.values()
        if (change := record.last_change) is not None
    ]
    return max(told, default=PAUSE_S)
