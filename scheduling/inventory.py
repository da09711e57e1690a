"""A cluster's devices as solvers count them: classes of groups that are alike, and what is free.

The one idea: what makes two groups interchangeable is their kind, degree of TP, site, price and
risk. A search over classes does not see a thousand devices but a handful of numbers; only when a
choice is made are devices taken, so that a stage lies in one node and a pipeline in few.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from scheduling.objective import Objective
from scheduling.placement import Group
from scheduling.stage_cost import GroupKind


@dataclass(frozen=True, slots=True)
class DeviceClass:
    """Devices that no solver tells apart.

    Attributes:
        kind: their kind's name.
        site: where their nodes stand.
        price_per_hour: a device's share of its node's price.
        availability: part of the time in which its node is not being recovered from.
        node_size: devices of the kind in each node, which bounds TP.
    """

    kind: str
    site: str
    price_per_hour: float
    availability: float
    node_size: int


@dataclass(frozen=True, slots=True)
class GroupClass:
    """Groups of `group.tp` devices of a class."""

    device: DeviceClass
    group: GroupKind

    @property
    def tp(self) -> int:
        """Devices in each group."""
        return self.group.tp


class Inventory:
    """All devices of a cluster by class, in a fixed order."""

    def __init__(self, objective: Objective) -> None:
        self.objective = objective
        problem = objective.problem
        self.max_tp = problem.limits.max_tp
        self._devices: dict[DeviceClass, list[tuple[str, tuple[int, ...]]]] = defaultdict(list)
        for node in problem.cluster.nodes:
            by_kind: dict[str, list[int]] = defaultdict(list)
            for index, kind in enumerate(node.devices):
                by_kind[kind].append(index)
            share = objective.price(node.id) / len(node.devices)
            for kind, indices in by_kind.items():
                availability = objective.availability(node.id)
                found = DeviceClass(kind, node.site, share, availability, len(indices))
                self._devices[found].append((node.id, tuple(indices)))
        self.device_classes = tuple(self._devices)
        self.group_classes = tuple(
            GroupClass(device, objective.group_kind(Group(nodes[0][0], nodes[0][1][:tp])))
            for device, nodes in self._devices.items()
            for tp in self.degrees(device.node_size)
        )

    def degrees(self, node_size: int) -> Iterator[int]:
        """Degrees of TP that a node of some devices allows: powers of 2 that divide the heads."""
        heads, degree = self.objective.problem.shape.num_heads, 1
        while degree <= min(node_size, self.max_tp) and heads % degree == 0:
            yield degree
            degree *= 2

    def num_devices(self, device: DeviceClass) -> int:
        """Devices of a class."""
        return sum(len(indices) for _, indices in self._devices[device])

    def groups(self) -> tuple[Group, ...]:
        """Every group that a stage may run on; they overlap."""
        found = []
        for device, nodes in self._devices.items():
            for name, indices in nodes:
                for tp in self.degrees(device.node_size):
                    last = len(indices) - tp + 1
                    found += [Group(name, indices[i : i + tp]) for i in range(0, last, tp)]
        return tuple(sorted(found))

    def holds_a_layer(self, group: Group) -> bool:
        """Whether a group has room for one layer and the KV cache of one longest request."""
        table = self.objective.table
        memory_bytes = table.cost(self.objective.group_kind(group), "both").memory_bytes
        least = np.asarray([table.kv_tokens_least])
        return bool(table.max_layers(memory_bytes, 0.0, least)[0] >= 1)

    def class_of(self, group: Group) -> DeviceClass:
        """The class of a group's devices."""
        for device, nodes in self._devices.items():
            for name, indices in nodes:
                if name == group.node and group.devices[0] in indices:
                    return device
        raise KeyError(group)

    def all_free(self) -> "FreeDevices":
        """Everything, to be taken."""
        return FreeDevices(
            {d: [(n, list(i)) for n, i in nodes] for d, nodes in self._devices.items()}
        )


class FreeDevices:
    """Devices not yet taken."""

    def __init__(self, devices: dict[DeviceClass, list[tuple[str, list[int]]]]) -> None:
        self._devices = devices

    def copy(self) -> "FreeDevices":
        """The same devices, to be taken apart from these."""
        return FreeDevices(
            {d: [(n, list(i)) for n, i in nodes] for d, nodes in self._devices.items()}
        )

    def count(self, group: GroupClass) -> int:
        """Groups of a class that could be taken, if nothing else is."""
        return sum(len(indices) // group.tp for _, indices in self._devices[group.device])

    def take(self, wanted: Mapping[GroupClass, int]) -> list[Group] | None:
        """Take groups of some classes, few nodes first; None, and nothing taken, if they lack."""
        taken: list[Group] = []
        undo = self.copy()
        for group_class in sorted(wanted, key=lambda g: -g.tp):
            for _ in range(wanted[group_class]):
                group = self._take_one(group_class, {group.node for group in taken})
                if group is None:
                    self._devices = undo._devices
                    return None
                taken.append(group)
        return taken

    def give_back(self, groups: Iterable[Group], inventory: Inventory) -> None:
        """Make taken devices free again."""
        for group in groups:
            nodes = self._devices[inventory.class_of(group)]
            indices = next(i for name, i in nodes if name == group.node)
            indices.extend(group.devices)
            indices.sort()

    def _take_one(self, wanted: GroupClass, used: set[str]) -> Group | None:
        """From a node that the pipeline uses already, else the one that it fits most snugly."""
        found = [e for e in self._devices[wanted.device] if len(e[1]) >= wanted.tp]
        if not found:
            return None
        name, indices = min(found, key=lambda e: (e[0] not in used, -len(e[1])))
        devices = tuple(indices[: wanted.tp])
        del indices[: wanted.tp]
        return Group(name, devices)


def order_stages(objective: Objective, groups: Sequence[Group]) -> tuple[Group, ...]:
    """Groups in an order that keeps sites and nodes together: sites by nearest link, each start.

    The first site is the one that gives the least total time over links.
    """
    cluster = objective.problem.cluster
    by_site: dict[str, list[Group]] = defaultdict(list)
    for group in sorted(groups):
        by_site[cluster.node(group.node).site].append(group)
    if len(by_site) == 1:
        return _by_speed(objective, groups)
    token = objective.table.token_bytes

    def cost(one: str, other: str) -> float:
        rate = cluster.link(by_site[one][0].node, by_site[other][0].node)
        return rate.latency_s + token / rate.bytes_per_s

    def tour(first: str) -> tuple[float, tuple[str, ...]]:
        order, total = [first], 0.0
        left = sorted(set(by_site) - {first})
        while left:
            nearest = min(left, key=lambda site: cost(order[-1], site))
            total += cost(order[-1], nearest)
            order.append(nearest)
            left.remove(nearest)
        return total, tuple(order)

    _, best = min(tour(first) for first in sorted(by_site))
    return tuple(g for site in best for g in _by_speed(objective, by_site[site]))


def _by_speed(objective: Objective, groups: Sequence[Group]) -> tuple[Group, ...]:
    """The stages of a node together; the node with the fastest last, since the head is there."""
    speed = {
        group: objective.table.cost(objective.group_kind(group), "both").layer_s[-1]
        for group in groups
    }
    fastest: dict[str, float] = {}
    for group in groups:
        fastest[group.node] = min(fastest.get(group.node, float("inf")), speed[group])
    return tuple(sorted(groups, key=lambda g: (-fastest[g.node], g.node, -speed[g], g.devices)))
