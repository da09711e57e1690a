"""What an annealing of overlapping layer ranges may try next.

The one idea: a move changes a range or two and is cut to what the nodes can hold; it never looks at
the flow.
"""

import numpy as np

from scheduling.helix.flow import FlowCluster, LayerRange, Ranges


def move(cluster: FlowCluster, ranges: Ranges, rng: np.random.Generator) -> Ranges:
    """One node's range moved, two swapped, or a border shifted; the same ranges where none can."""
    kind = rng.random()
    if kind < 0.35:
        return _resize(cluster, ranges, rng)
    if kind < 0.6:
        return _relocate(cluster, ranges, rng)
    if kind < 0.75:
        return _swap(cluster, ranges, rng)
    return _shift(cluster, ranges, rng)


def anything(cluster: FlowCluster, rng: np.random.Generator) -> Ranges:
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
