"""From an overlapping placement to pipelines that cover all layers once.

The one idea: rows of nodes that share none (`helix.paths`) become pipelines whose layers the
objective splits anew, since clipped ranges fit no longer; nodes that no path uses join the pipeline
that gains most. A row that cannot hold the model by itself, its KV cache included, is lengthened by
free nodes before it is given up.
"""

from collections.abc import Iterator, Sequence

from scheduling.helix.flow import FlowCluster
from scheduling.helix.paths import disjoint_paths
from scheduling.inventory import Inventory
from scheduling.placement import Group
from scheduling.solvers.build import Built, build
from scheduling.solvers.flow_search import FlowSolution


def pipelines_of_flow(
    inventory: Inventory, cluster: FlowCluster, groups: Sequence[Group], found: FlowSolution
) -> tuple[Built, ...]:
    """The pipelines that a flow comes to; none where no row holds the model.

    Args:
        inventory: of the problem.
        cluster: that the flow is on.
        groups: its nodes, in order.
        found: the placement and its flow.
    """
    free = dict(enumerate(groups))
    built: list[Built] = []
    for _, path in disjoint_paths(cluster, found.ranges, found.flow):
        if all(node in free for node in path):
            one = _hold(inventory, [free.pop(node) for node in path], free)
            if one is not None:
                built.append(one)
    rest = rows_of(inventory, list(free.values()))
    best = max(rest, key=lambda row: row.value, default=None)
    if best is not None:
        built.append(best)
        free = {number: group for number, group in free.items() if group not in best.groups}
    return tuple(_absorb(inventory, built, list(free.values())))


def rows_of(inventory: Inventory, groups: Sequence[Group]) -> Iterator[Built]:
    """Rows of the fastest or the largest groups, of one site or of all, that hold the model."""
    objective = inventory.objective
    sites: dict[str, list[Group]] = {}
    groups = list(filter(inventory.holds_a_layer, groups))
    for group in groups:
        sites.setdefault(objective.problem.cluster.node(group.node).site, []).append(group)
    costs = {g: objective.table.cost(objective.group_kind(g), "both") for g in groups}
    several = [list(groups)] if len(sites) > 1 else []
    for these in [*sites.values(), *several]:
        for order in (
            sorted(these, key=lambda g: (float(costs[g].layer_s[-1]), g)),
            sorted(these, key=lambda g: (-costs[g].memory_bytes, g)),
        ):
            for length in _lengths(min(len(order), objective.table.shape.num_layers)):
                one = build(inventory, order[:length], "both")
                if one is not None:
                    yield one


def _lengths(most: int) -> Iterator[int]:
    """1 to `most`, in wider and wider steps."""
    length = 1
    while length < most:
        yield length
        length = max(length + 1, int(length * 1.2))
    yield most


def _hold(inventory: Inventory, row: list[Group], free: dict[int, Group]) -> Built | None:
    """The row as a pipeline, with the free groups that it takes to hold the model."""
    one, used = build(inventory, row, "both"), list[int]()
    for number in sorted(free):
        if one is not None:
            break
        used.append(number)
        one = build(inventory, [*row, *(free[taken] for taken in used)], "both")
    for number in used if one is not None else ():
        del free[number]
    return one


def _absorb(inventory: Inventory, built: list[Built], free: list[Group]) -> list[Built]:
    """Free groups one after another where they add most; left idle where they add nothing."""
    for group in free:
        tries = [
            (new.value - old.value, number, new)
            for number, old in enumerate(built)
            if (new := build(inventory, [*old.groups, group], old.phase)) is not None
        ]
        gain, number, new = max(tries, default=(0.0, 0, None), key=lambda t: t[:2])
        if new is not None and gain > 0:
            built[number] = new
    return built
