"""Placements with overlapping layer ranges, by the flow they carry.

The one idea: start from groups in a row (`scheduling.helix_flow_groups`), then anneal: move one
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
import numpy.typing as npt
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import maximum_flow

from scheduling.helix_flow import (
    Flow,
    FlowCluster,
    LayerRange,
    Ranges,
    check_ranges,
    max_flow,
    rate_bound,
)
from scheduling.helix_flow_groups import grouped_placement
from scheduling.solvers.interface import Budget

_SCALE = 1000.0
"""Units of flow for a token per second, in integer flows."""
_MOST = 2**30
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
    starts = [grouped_placement(cluster)]
    if start is not None:
        check_ranges(cluster, start)
        starts.append(tuple(start))
    scorer = _Scorer(cluster, partial=partial)
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
    scorer: "_Scorer",
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
            here = best if tries // _ROUND % 2 == 0 else _anything(scorer.cluster, rng)
            score = scorer.score(here)
        hottest = _HEATS[tries // _ROUND % len(_HEATS)] * max(best_score, 1.0)
        heat = hottest * (1 - step / _ROUND) ** 2 + 1e-9
        tried = _move(scorer.cluster, here, rng)
        tried_score = scorer.score(tried)
        tries += 1
        if tried_score >= score or rng.random() < exp((tried_score - score) / heat):
            here, score = tried, tried_score
        if score > best_score + 1.0 / _SCALE:
            best, best_score = here, score
            yield best


class _Scorer:
    """Maximum flows on integers, for placements of one cluster."""

    def __init__(self, cluster: FlowCluster, *, partial: bool) -> None:
        self.cluster = cluster
        self._partial = partial
        self._links = _integers(cluster.links)
        self._entries = _integers(cluster.entries)
        self._exits = _integers(cluster.exits)
        width = max((len(rates) for rates in cluster.rates), default=0)
        self._rates = np.zeros((len(cluster.names), width + 1), dtype=np.int32)
        for node, rates in enumerate(cluster.rates):
            self._rates[node, 1 : len(rates) + 1] = _integers(np.array(rates))

    def score(self, ranges: Ranges) -> float:
        """Tokens per second, to a thousandth."""
        count = len(ranges)
        held = np.array(ranges)
        start, end = held[:, 0], held[:, 1]
        active = end > start
        follows = start[np.newaxis] == end[:, np.newaxis]
        if self._partial:
            follows = start[np.newaxis] <= end[:, np.newaxis]
        follows &= end[:, np.newaxis] < end[np.newaxis]
        follows &= active[:, np.newaxis] & active[np.newaxis]
        matrix = np.zeros((2 * count + 2, 2 * count + 2), dtype=np.int32)
        matrix[np.arange(count), np.arange(count) + count] = self._rates[
            np.arange(count), end - start
        ]
        matrix[count : 2 * count, :count] = np.where(follows, self._links, 0)
        matrix[2 * count, :count] = np.where(active & (start == 0), self._entries, 0)
        whole = active & (end == self.cluster.num_layers)
        matrix[count : 2 * count, -1] = np.where(whole, self._exits, 0)
        graph = csr_matrix(matrix)
        return float(maximum_flow(graph, 2 * count, 2 * count + 1).flow_value) / _SCALE


def _integers(rates: npt.NDArray[np.float64]) -> npt.NDArray[np.int32]:
    return np.minimum(np.floor(rates * _SCALE), _MOST).astype(np.int32)


def _move(cluster: FlowCluster, ranges: Ranges, rng: np.random.Generator) -> Ranges:
    kind = rng.random()
    if kind < 0.35:
        return _resize(cluster, ranges, rng)
    if kind < 0.6:
        return _relocate(cluster, ranges, rng)
    if kind < 0.75:
        return _swap(cluster, ranges, rng)
    return _shift(cluster, ranges, rng)


def _anything(cluster: FlowCluster, rng: np.random.Generator) -> Ranges:
    """Each node with as much as it can hold, somewhere."""
    lengths = [cluster.max_layers(node) for node in range(len(cluster.names))]
    starts = [int(rng.integers(cluster.num_layers - length + 1)) for length in lengths]
    return tuple((start, start + n) for start, n in zip(starts, lengths, strict=True))


def _resize(cluster: FlowCluster, ranges: Ranges, rng: np.random.Generator) -> Ranges:
    """Move one end of one range by a layer or two."""
    node = int(rng.integers(len(ranges)))
    start, end = ranges[node]
    by = int(rng.choice((-2, -1, 1, 2)))
    changed = (start + by, end) if rng.random() < 0.5 else (start, end + by)
    return _replace(cluster, ranges, {node: changed})


def _relocate(cluster: FlowCluster, ranges: Ranges, rng: np.random.Generator) -> Ranges:
    """Put one node anywhere, or where another begins or ends, with a length of its own."""
    node, other = (int(index) for index in rng.integers(len(ranges), size=2))
    most = cluster.max_layers(node)
    if most == 0:
        return ranges
    length = int(rng.integers(1, most + 1))
    border = ranges[other][int(rng.integers(2))]
    last = cluster.num_layers - length
    starts = (border, border - length, int(rng.integers(last + 1)))
    start = min(max(starts[int(rng.integers(3))], 0), last)
    return _replace(cluster, ranges, {node: (start, start + length)})


def _swap(cluster: FlowCluster, ranges: Ranges, rng: np.random.Generator) -> Ranges:
    one, two = (int(index) for index in rng.integers(len(ranges), size=2))
    return _replace(cluster, ranges, {one: ranges[two], two: ranges[one]})


def _shift(cluster: FlowCluster, ranges: Ranges, rng: np.random.Generator) -> Ranges:
    """Move a border, with all ranges that end or begin there."""
    border = ranges[int(rng.integers(len(ranges)))][int(rng.integers(2))]
    by = int(rng.choice((-1, 1)))
    if border in (0, cluster.num_layers):
        return ranges
    changed = {
        node: (start + by * (start == border), end + by * (end == border))
        for node, (start, end) in enumerate(ranges)
        if border in (start, end)
    }
    return _replace(cluster, ranges, changed)


def _replace(cluster: FlowCluster, ranges: Ranges, changed: dict[int, LayerRange]) -> Ranges:
    """The ranges with these changes, cut to what the nodes can hold."""
    result = list(ranges)
    for node, (start, end) in changed.items():
        low, high = max(0, start), min(cluster.num_layers, end)
        high = min(high, low + cluster.max_layers(node))
        if high > low:
            result[node] = low, high
    return tuple(result)
