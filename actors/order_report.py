"""What an operator is told of an order, done or not."""

from actors.cluster import Cluster
from actors.messages import MAX_REASON, PhaseReport, PlanReport

MAX_PHASES = 64


def order_report(
    cluster: Cluster,
    *,
    reason: str = "",
    moves: tuple[str, ...] = (),
    phases: tuple[PhaseReport, ...] = (),
) -> PlanReport:
    """An order is done or, with a reason, it is not; at the cluster's epoch as it is now."""
    return PlanReport(
        is_done=not reason,
        reason=reason[:MAX_REASON],
        epoch=cluster.epoch,
        phases=phases[:MAX_PHASES],
        moves=moves,
    )
