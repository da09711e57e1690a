"""A flow as paths: which nodes a token passes, and rows of nodes that share none.

The one idea: the widest path through the links of a flow is the pipeline that it uses most. Take
it, take its nodes away, and go on with the flow that the rest still carries; what comes out is rows
of nodes that no two share, as a service of pipelines needs them.
"""

from collections.abc import Iterator, Mapping

from scheduling.helix.flow import IDLE, Flow, FlowCluster, Ranges, max_flow

Vertex = int | None
_Links = Mapping[tuple[Vertex, Vertex], float]


def widest_path(links: _Links) -> tuple[float, tuple[int, ...]]:
    """The path from source to sink whose narrowest link is widest, and that link's flow.

    Returns:
        tokens/s and the nodes in order; 0 and none where no path is left.

    Complexity: O(N x E).
    """
    widths: dict[int, float] = {}
    paths: dict[int, tuple[int, ...]] = {}
    ways = sorted(links.items(), key=lambda item: str(item[0]))
    for (tail, head), amount in ways:
        if tail is None and head is not None:
            widths[head], paths[head] = amount, (head,)
    changed = True
    while changed:
        changed = False
        for (tail, head), amount in ways:
            if tail is None or head is None or tail not in widths:
                continue
            width = min(widths[tail], amount)
            if width > widths.get(head, 0.0) and head not in paths[tail]:
                widths[head], paths[head] = width, (*paths[tail], head)
                changed = True
    ends = [
        (min(widths[tail], amount), paths[tail])
        for (tail, head), amount in ways
        if head is None and tail in widths
    ]
    return max(ends, default=(0.0, ()), key=lambda end: (end[0], -len(end[1])))


def disjoint_paths(
    cluster: FlowCluster, ranges: Ranges, flow: Flow
) -> Iterator[tuple[float, tuple[int, ...]]]:
    """Rows of nodes that share none, the widest first, with the tokens/s of each.

    Args:
        cluster: nodes and links.
        ranges: what each node holds.
        flow: the maximum flow of these ranges.
    """
    left = list(ranges)
    while flow.tokens_per_s > 0:
        width, path = widest_path(flow.links)
        if not path:
            return
        yield width, path
        for node in path:
            left[node] = IDLE
        flow = max_flow(cluster, left)
