"""A first placement: groups of like ranges, site after site.

The one idea: inside a site links are wide, so any group of nodes that together compute the wanted
rate can follow any other, and a small dynamic programme finds how many layers a site can take.
Between sites one link is too thin, so the groups on both ends are made large enough for their
links together. The largest rate for which all sites together hold the model is searched.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import permutations, product

import networkx as nx
import numpy as np

from scheduling.helix.flow import IDLE, FlowCluster, LayerRange, Ranges

Counts = tuple[int, ...]
"""Nodes of each kind."""
_Group = tuple[Counts, int]
"""Nodes that hold the same layers, and how many layers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Site:
    """Nodes with wide links among them, by kind: those of equal rates."""

    kinds: tuple[tuple[int, ...], ...]
    rates: tuple[tuple[float, ...], ...]

    @property
    def counts(self) -> Counts:
        return tuple(map(len, self.kinds))


def grouped_placement(cluster: FlowCluster, *, max_group: int = 4, steps: int = 24) -> Ranges:
    """A placement of groups in a row, at the largest rate that bisection finds; maybe all idle.

    Args:
        cluster: nodes and links.
        max_group: the most nodes that hold the same layers.
        steps: of the bisection on the rate.
    """
    best: Ranges = (IDLE,) * len(cluster.names)
    low, high = 0.0, max((max(rates) for rates in cluster.rates if rates), default=0.0)
    for _ in range(steps):  # the rate is not monotone in groups, so this may miss, but not err
        rate = (low + high) / 2
        found = _at_rate(cluster, rate, max_group)
        if found is None:
            high = rate
        else:
            best, low = found, rate
    return best


def sites_of(cluster: FlowCluster, rate: float) -> list[tuple[int, ...]]:
    """Nodes that links of at least that rate join, in both directions."""
    graph = nx.Graph()
    graph.add_nodes_from(range(len(cluster.names)))
    wide = np.minimum(cluster.links, cluster.links.T) >= rate
    graph.add_edges_from((int(a), int(b)) for a, b in zip(*np.nonzero(wide), strict=True))
    return sorted(tuple(sorted(part)) for part in nx.connected_components(graph))


def _at_rate(cluster: FlowCluster, rate: float, max_group: int) -> Ranges | None:
    sites = [_site(cluster, nodes) for nodes in sites_of(cluster, rate)]
    if len(sites) > 5:
        return None  # too many orders to try, and too thin links to be of use
    thin = cluster.links[(cluster.links > 0) & (cluster.links < rate)]
    fan = int(np.ceil(rate / np.quantile(thin, 0.25))) if len(thin) else 1
    for order in permutations(sites):
        for widths in _widths(len(order), fan, max_group):
            found = _fill(cluster, order, widths, rate, max_group)
            if found is not None:
                return found
    return None


def _widths(num_sites: int, fan: int, max_group: int) -> Iterator[tuple[int, ...]]:
    """Sizes of the last group before and the first group after each crossing, alternating."""
    pairs = [(a, -(-fan // a)) for a in range(1, fan + 1) if max(a, -(-fan // a)) <= max_group]
    for chosen in product(pairs, repeat=num_sites - 1):
        yield tuple(width for pair in chosen for width in pair)


def _fill(
    cluster: FlowCluster,
    order: Sequence[_Site],
    widths: Sequence[int],
    rate: float,
    max_group: int,
) -> Ranges | None:
    ranges: list[LayerRange] = [IDLE] * len(cluster.names)
    reached = 0
    ends = (1, *widths, 1)
    for index, site in enumerate(order):
        groups = _site_groups(site, rate, max_group, ends[2 * index], ends[2 * index + 1])
        if groups is None:
            return None
        free = [list(nodes) for nodes in site.kinds]
        for counts, num_layers in groups:
            end = min(reached + num_layers, cluster.num_layers)
            for kind, count in enumerate(counts):
                for _ in range(count):
                    ranges[free[kind].pop()] = (reached, end) if end > reached else IDLE
            reached = end
    return tuple(ranges) if reached == cluster.num_layers else None


def _site_groups(
    site: _Site, rate: float, max_group: int, first: int, last: int
) -> list[_Group] | None:
    """Groups in order, with the layers each holds, as many layers as can be; None if none fit."""
    options = [
        (counts, layers)
        for counts in product(*(range(min(n, max_group) + 1) for n in site.counts))
        if 0 < sum(counts) <= max_group and (layers := _most_layers(site, counts, rate))
    ]
    best: tuple[int, list[_Group]] | None = None
    inner = _inner_groups(options)
    for head, tail in product(options, repeat=2):
        if sum(head[0]) < first or sum(tail[0]) < last:
            continue
        left = tuple(n - a - b for n, a, b in zip(site.counts, head[0], tail[0], strict=True))
        if min(left) >= 0:
            layers, middle = inner(left)
            total = head[1] + layers + tail[1]
            if best is None or total > best[0]:
                best = total, [head, *middle, tail]
    for option in options:  # one group that is both ends
        if sum(option[0]) >= max(first, last) and (best is None or option[1] > best[0]):
            best = option[1], [option]
    return best[1] if best else None


def _inner_groups(options: Sequence[_Group]) -> Callable[[Counts], tuple[int, list[_Group]]]:
    """A function from the nodes left to the most layers that groups of them hold."""

    @cache
    def best(left: Counts) -> tuple[int, list[_Group]]:
        found: tuple[int, list[_Group]] = (0, [])
        for counts, layers in options:
            rest = tuple(a - b for a, b in zip(left, counts, strict=True))
            if min(rest) >= 0:
                more, groups = best(rest)
                if more + layers > found[0]:
                    found = more + layers, [(counts, layers), *groups]
        return found

    return best


def _most_layers(site: _Site, counts: Counts, rate: float) -> int:
    used = [rates for rates, count in zip(site.rates, counts, strict=True) if count]
    for layers in range(min(map(len, used)), 0, -1):
        together = sum(
            count * rates[layers - 1]
            for rates, count in zip(site.rates, counts, strict=True)
            if count
        )
        if together >= rate:
            return layers
    return 0


def _site(cluster: FlowCluster, nodes: Sequence[int]) -> _Site:
    by_rates: dict[tuple[float, ...], list[int]] = {}
    for node in nodes:
        by_rates.setdefault(cluster.rates[node], []).append(node)
    return _Site(kinds=tuple(map(tuple, by_rates.values())), rates=tuple(by_rates))
