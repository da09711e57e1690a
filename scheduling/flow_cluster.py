"""A planning problem as nodes and links of a flow, for placements with overlapping ranges.

The one idea: a group of devices that holds `k` layers serves at most what its best step allows
that leaves room for the KV cache of that step; a link carries as many generated tokens as it has
room for the activations of their requests. Nothing is rounded down, so that any pipelines on these
groups are a flow here, and what bounds the flow bounds them.

Limits: a line that several pairs of nodes share counts for each of them; embedding and head are
free unless a group holds all layers; a flow knows no latency.

Source: Helix, ASPLOS 2025, section 4, with this project's cost model for its table of rates.
"""

from collections.abc import Sequence

import numpy as np

from scheduling.forecast import kv_tokens
from scheduling.helix.flow import FlowCluster, LayerRange
from scheduling.inventory import Inventory
from scheduling.objective import Objective
from scheduling.placement import Group
from scheduling.stage_cost import Array


def flow_cluster(objective: Objective, groups: Sequence[Group]) -> FlowCluster:
    """Groups as nodes of a flow in generated tokens a second.

    Args:
        objective: of the problem; pipelines that serve both phases are meant.
        groups: that share no device.
    """
    rates = tuple(_rates(objective, group) for group in groups)
    links = _links(objective, groups)
    free = np.full(len(groups), 1.0 + sum(max(each, default=0.0) for each in rates))
    return FlowCluster(
        num_layers=objective.problem.shape.num_layers,
        names=tuple(f"{g.node}:{','.join(map(str, g.devices))}" for g in groups),
        rates=rates,
        links=np.minimum(links, free[0]),
        entries=free,
        exits=free.copy(),
    )


def groups_of_degree(inventory: Inventory, degree: int) -> tuple[Group, ...]:
    """Every device in a group: of `degree` devices, or the most that its node has a power of."""
    found: list[Group] = []
    used: set[tuple[str, int]] = set()
    for group in sorted(inventory.groups(), key=lambda g: (-len(g.devices), g)):
        devices = {(group.node, index) for index in group.devices}
        if len(group.devices) <= degree and not devices & used:
            found.append(group)
            used |= devices
    return tuple(sorted(found))


def kv_room(objective: Objective, group: Group, held: LayerRange) -> int:
    """Tokens whose KV a group has room for, in each of the layers that it holds."""
    table = objective.table
    count = held[1] - held[0]
    room = table.cost(objective.group_kind(group), "both").memory_bytes - table.workspace_bytes
    ends = (held[0] == 0) + (held[1] == table.shape.num_layers)
    room -= ends * table.ends_bytes + count * table.shape.layer_weight_bytes
    return max(0, int(room / (count * table.kv_bytes_per_token))) if count else 0


def _rates(objective: Objective, group: Group) -> tuple[float, ...]:
    """Tokens/s with 1, 2, ... layers; as many as leave room for the KV of one longest request."""
    table, goal = objective.table, objective.problem.goal
    grid, cost = table.grid("both"), table.cost(objective.group_kind(group), "both")
    num_layers = table.shape.num_layers
    rates: list[float] = []
    for count in range(1, num_layers + 1):
        is_whole = count == num_layers
        in_flight = 1 if is_whole else 2  # a pipeline of several stages has two steps or more
        fits = _fits(objective, cost.memory_bytes, in_flight, table.ends_bytes * is_whole)
        step_s = count * cost.layer_s
        possible = fits >= count
        if goal.tpot_s is not None:
            possible &= step_s <= goal.tpot_s
        rates.append(float(np.where(possible, grid.requests / step_s, 0.0).max()))
    while rates and not rates[-1]:
        rates.pop()
    worth = objective.availability(group.node) * objective.problem.workload.mean_output
    return tuple(rate * worth for rate in rates)


def _fits(objective: Objective, memory_bytes: float, in_flight: int, ends_bytes: float) -> Array:
    """Layers that fit at each size of step."""
    table = objective.table
    grid = table.grid("both")
    flights = np.full_like(grid.sequences, in_flight)
    tokens = kv_tokens(table, "both", flights, grid.sequences, grid.chunk)
    allowed = flights * grid.sequences <= table.limits.max_running * (1 + 1e-9)
    return np.where(allowed, table.max_layers(memory_bytes, ends_bytes, tokens), 0.0)


def _links(objective: Objective, groups: Sequence[Group]) -> Array:
    """Generated tokens/s over each link: those of a request by the bytes it sends."""
    load, link = objective.problem.workload, objective.problem.cluster.link
    bytes_each = (load.mean_prompt + load.mean_output) * objective.table.token_bytes
    by_nodes: dict[tuple[str, str], float] = {}
    links = np.zeros((len(groups), len(groups)))
    for a, one in enumerate(groups):
        for b, other in enumerate(groups):
            ends = (one.node, other.node)
            if ends not in by_nodes:
                by_nodes[ends] = link(*ends).bytes_per_s / bytes_each * load.mean_output
            links[a, b] = by_nodes[ends] if a != b else 0.0
    return links
