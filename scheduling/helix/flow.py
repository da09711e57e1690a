"""The flow that a placement with overlapping layer ranges can carry.

The one idea: a node that holds layers `[start, end)` continues a token that has passed `m` layers
if `start <= m < end`, so nodes need not line up in pipelines. Tokens per second are then a flow
from source to sink, with nodes and links as capacities, and a placement is worth its maximum.

Source: Mei et al., Helix: Serving LLMs over Heterogeneous GPUs and Network via Max-Flow,
ASPLOS 2025.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import networkx as nx
import numpy as np
import numpy.typing as npt

from scheduling.errors import InvalidCluster, InvalidPlan

Floats = npt.NDArray[np.float64]
LayerRange = tuple[int, int]
"""Layers `[start, end)`; an empty range is a node left idle."""
Ranges = tuple[LayerRange, ...]
"""What each node holds, in the order of the nodes."""
IDLE: LayerRange = (0, 0)

_SOURCE, _SINK = "source", "sink"
_DUST = 1e-9
"""The part of a flow below which a link's is a rounding error."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FlowCluster:
    """Nodes by what they can do, and the links between them.

    Attributes:
        num_layers: layers of the model.
        names: one for each node.
        rates: for each node, tokens/s that it computes when it holds 1, 2, ... layers; as many as
            it has memory for.
        links: tokens/s that a link carries from node to node; 0 where there is none.
        entries: tokens/s from the source to each node.
        exits: tokens/s from each node to the sink.

    Shapes: links [N, N], entries [N], exits [N].
    """

    num_layers: int
    names: tuple[str, ...]
    rates: tuple[tuple[float, ...], ...]
    links: Floats
    entries: Floats
    exits: Floats

    def __post_init__(self) -> None:
        count = len(self.names)
        shapes = (self.links.shape, self.entries.shape, self.exits.shape)
        if len(self.rates) != count or shapes != ((count, count), (count,), (count,)):
            raise InvalidCluster(
                f"flow cluster of {count} nodes: expected {count} rates and links "
                f"[{count}, {count}], got {len(self.rates)} rates and links {shapes}"
            )

    def max_layers(self, node: int) -> int:
        """The most layers that a node's memory holds."""
        return min(len(self.rates[node]), self.num_layers)

    def rate(self, node: int, held: LayerRange) -> float:
        """Tokens/s of a node with that range; 0 where it is idle."""
        count = held[1] - held[0]
        return self.rates[node][count - 1] if count else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Flow:
    """A maximum flow: its value and what each link carries of it.

    Attributes:
        tokens_per_s: the value.
        links: tokens/s by (from, to), nodes by index; None stands for source and for sink.
    """

    tokens_per_s: float
    links: Mapping[tuple[int | None, int | None], float]


def continues(before: int, held: LayerRange, *, partial: bool) -> bool:
    """Whether a node can go on with a token that has passed `before` layers."""
    return held[0] <= before < held[1] if partial else held[0] == before < held[1]


def check_ranges(cluster: FlowCluster, ranges: Sequence[LayerRange]) -> None:
    """Refuse ranges that a node cannot hold.

    Raises:
        InvalidPlan: one sentence says what, where, expected and got.
    """
    if len(ranges) != len(cluster.names):
        raise InvalidPlan(f"ranges: expected {len(cluster.names)}, a node each, got {len(ranges)}")
    for node, (start, end) in enumerate(ranges):
        if not 0 <= start <= end <= cluster.num_layers:
            raise InvalidPlan(
                f"node {cluster.names[node]!r}: expected a range in 0:{cluster.num_layers}, got "
                f"{start}:{end}"
            )
        if end - start > cluster.max_layers(node):
            raise InvalidPlan(
                f"node {cluster.names[node]!r}: expected at most {cluster.max_layers(node)} "
                f"layers, got {end - start}; give it a shorter range"
            )


def max_flow(cluster: FlowCluster, ranges: Sequence[LayerRange], *, partial: bool = True) -> Flow:
    """The most tokens per second that this placement carries, and by which links.

    Args:
        cluster: nodes and links.
        ranges: what each node holds.
        partial: whether a node may serve a part of what it holds; otherwise a token must enter it
            at its first layer.

    Raises:
        InvalidPlan: a range is not one that its node can hold.

    Complexity: O(N² sqrt(E)) for N nodes and E links (preflow-push, highest label).
    """
    check_ranges(cluster, ranges)
    graph = _graph(cluster, ranges, partial=partial)
    value, by_edge = nx.maximum_flow(graph, _SOURCE, _SINK)
    links = {
        (_outer(tail), _outer(head)): float(amount)
        for tail, heads in by_edge.items()
        for head, amount in heads.items()
        if amount > _DUST * value and not _is_inside(tail, head)
    }
    return Flow(tokens_per_s=float(value), links=links)


def rate_bound(cluster: FlowCluster) -> float:
    """Tokens/s that no placement carries more of, from the nodes alone.

    A placement that carries F tokens/s computes F x layers; node i adds at most the largest
    k x min(rate(k), F). The bound is the largest F for which this adds up.

    Complexity: O(N x layers) for each of 100 bisection steps.
    """
    low, high = 0.0, sum(k * r for rates in cluster.rates for k, r in enumerate(rates, 1))
    for _ in range(100):
        middle = (low + high) / 2
        work = sum(
            max((k * min(r, middle) for k, r in enumerate(rates, 1)), default=0.0)
            for rates in cluster.rates
        )
        if work >= middle * cluster.num_layers * (1 - 1e-12):  # equal over a range of rates
            low = middle
        else:
            high = middle
    return high


def _graph(cluster: FlowCluster, ranges: Sequence[LayerRange], *, partial: bool) -> Any:
    graph = nx.DiGraph()
    graph.add_nodes_from((_SOURCE, _SINK))
    for node, held in enumerate(ranges):
        if held[0] == held[1]:
            continue
        graph.add_edge((node, 0), (node, 1), capacity=cluster.rate(node, held))
        if held[0] == 0:
            graph.add_edge(_SOURCE, (node, 0), capacity=float(cluster.entries[node]))
        if held[1] == cluster.num_layers:
            graph.add_edge((node, 1), _SINK, capacity=float(cluster.exits[node]))
        for other, after in enumerate(ranges):
            carried = float(cluster.links[node, other])
            if other != node and carried and continues(held[1], after, partial=partial):
                graph.add_edge((node, 1), (other, 0), capacity=carried)
    return graph


def _outer(vertex: Any) -> int | None:
    return None if isinstance(vertex, str) else int(vertex[0])


def _is_inside(tail: Any, head: Any) -> bool:
    return not isinstance(tail, str) and not isinstance(head, str) and tail[0] == head[0]
