"""Placements with overlapping layer ranges, by the flow they carry.

The one idea: start from groups in a row (`scheduling.helix.groups`), then anneal: move one
node's range, swap two, or shift a border, and keep what carries more, or not much less while it is
early. A maximum flow on integers scores each try in a fraction of a millisecond; the exact one is
computed for what is yielded. The bound is that of the nodes alone.

Such a placement has no pipelines, so it is no `scheduling.placement.Placement`: solutions here are
of their own kind, but they come as those of `scheduling.solvers.interface` do, ever better, under
the same budget. `scheduling.weighted_round_robin` serves requests from them.

Source: Helix, ASPLOS 2025, for the objective; there a mixed integer programme is solved instead.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import exp

import numpy as np

from scheduling.helix.cover import covering_placement
from scheduling.helix.flow import (
    Flow,
    FlowCluster,
    LayerRange,
    Ranges,
    check_ranges,
    max_flow,
    rate_bound,
)
from scheduling.helix.groups import grouped_placement
from scheduling.solvers.flow_moves import anything, move
from scheduling.solvers.flow_scorer import FlowScorer
from scheduling.solvers.interface import Budget

_MAX_GROUPED_NODES = 24
"""Beyond, groups in a row take longer to find than an annealing takes to do without."""
_ROUND = 500
"""Tries from hot to cold; then again, from the best and from anything in turn."""
_HEATS = (0.02, 0.4, 0.1, 1.0)
"""At the start of a round, as parts of the best score; one round after another."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowSolution:
    """A placement, the flow it carries, and what none can exceed.

    Attributes:
        ranges: what each node holds, in the cluster's order.
        flow: the maximum flow, by link.
        bound: tokens/s; no placement carries more.
    """

    ranges: Ranges
    flow: Flow
    bound: float

    @property
    def score(self) -> float:
        """Tokens per second."""
        return self.flow.tokens_per_s

    @property
    def gap(self) -> float:
        """How much better than this the best could be, as a part of this."""
        if self.score <= 0:
            return float("inf")
        return max(0.0, (self.bound - self.score) / self.score)


def search(
    cluster: FlowCluster,
    *,
    budget: Budget,
    seed: int = 0,
    start: Sequence[LayerRange] | None = None,
    partial: bool = True,
    max_tries: int | None = None,
) -> Iterator[FlowSolution]:
    """Yield placements that carry more and more; stop at the budget, or where none can be better.

    Args:
        cluster: nodes and links.
        budget: looked at between tries.
        seed: of the moves; the same seed gives the same solutions unless the budget ends them.
        start: a placement to begin from, beside the one this builds itself.
        partial: whether a node may serve a part of what it holds.
        max_tries: tries after which to stop, if not before.

    Raises:
        InvalidPlan: `start` is not one that the nodes can hold.
    """
    bound = rate_bound(cluster)
    starts = [covering_placement(cluster)]
    if len(cluster.names) <= _MAX_GROUPED_NODES:
        starts.append(grouped_placement(cluster))
    if start is not None:
        check_ranges(cluster, start)
        starts.append(tuple(start))
    scorer = FlowScorer(cluster, partial=partial)
    ranges = max(starts, key=scorer.score)
    best = 0.0
    for found in _anneal(scorer, ranges, budget, np.random.default_rng(seed), max_tries):
        flow = max_flow(cluster, found, partial=partial)
        if flow.tokens_per_s > best:
            best = flow.tokens_per_s
            yield FlowSolution(ranges=found, flow=flow, bound=bound)
        if best >= bound * (1 - 1e-9):
            return


def _anneal(
    scorer: FlowScorer,
    ranges: Ranges,
    budget: Budget,
    rng: np.random.Generator,
    max_tries: int | None,
) -> Iterator[Ranges]:
    best = here = ranges
    best_score = score = scorer.score(ranges)
    yield best
    tries = 0
    while not budget.is_spent and (max_tries is None or tries < max_tries):
        step = tries % _ROUND
        if step == 0:
            here = best if tries // _ROUND % 2 == 0 else anything(scorer.cluster, rng)
            score = scorer.score(here)
        hottest = _HEATS[tries // _ROUND % len(_HEATS)] * max(best_score, 1.0)
        heat = hottest * (1 - step / _ROUND) ** 2 + 1e-9
        tried = move(scorer.cluster, here, rng)
        tried_score = scorer.score(tried)
        tries += 1
        if tried_score >= score or rng.random() < exp((tried_score - score) / heat):
            here, score = tried, tried_score
        if score > best_score + scorer.unit:
            best, best_score = here, score
            yield best
