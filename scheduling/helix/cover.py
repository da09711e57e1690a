"""A first placement in no time: each node where least is covered.

The one idea: at the rate that bounds all placements, every node has a number of layers with which
it does most of the work; taken in turn, the largest first, each goes where it adds most to layers
that are not yet covered at that rate. It never looks at links, and so takes any number of sites.

Source: the rule by which a new server joins in Petals (Borzunov et al., ACL 2023 demo track), here
with the lengths that Helix's capacities ask for.
"""

import numpy as np

from scheduling.helix.flow import IDLE, FlowCluster, LayerRange, Ranges, rate_bound


def covering_placement(cluster: FlowCluster) -> Ranges:
    """Ranges that cover all layers as evenly as a greedy choice can; idle where nothing is held.

    Complexity: O(N x layers^2).
    """
    wanted = rate_bound(cluster)
    covered = np.zeros(cluster.num_layers)
    ranges: list[LayerRange] = [IDLE] * len(cluster.names)
    lengths = [_length(rates, wanted) for rates in cluster.rates]
    for node in sorted(range(len(lengths)), key=lambda node: -lengths[node]):
        if lengths[node]:
            held = _best_window(covered, lengths[node], cluster.rates[node], wanted)
            covered[held[0] : held[1]] += cluster.rate(node, held)
            ranges[node] = held
    return tuple(ranges)


def _length(rates: tuple[float, ...], wanted: float) -> int:
    """The number of layers with which a node does most work at a rate; 0 where it holds none."""
    work = [count * min(rate, wanted) for count, rate in enumerate(rates, 1)]
    return int(np.argmax(work)) + 1 if work else 0


def _best_window(
    covered: "np.typing.NDArray[np.float64]", length: int, rates: tuple[float, ...], wanted: float
) -> LayerRange:
    rate = rates[length - 1]
    gain = np.minimum(covered + rate, wanted) - np.minimum(covered, wanted)
    sums = np.concatenate([[0.0], np.cumsum(gain)])
    start = int(np.argmax(sums[length:] - sums[:-length] + 1e-12))
    return start, start + length
