"""From rows of classes to pipelines on real devices, and from devices left over to a little more.

The one idea: a search says how many groups of each class a pipeline takes; here devices are taken
for it, ordered, and scored by the objective as they really lie. `Draft` is a placement in the
making: pipelines with their value, and what is free.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations

from scheduling.inventory import FreeDevices, GroupClass, Inventory, order_stages
from scheduling.objective import Objective
from scheduling.placement import Group, Phase, Placement
from scheduling.solvers.row_search import RowChoice

_MAX_ABSORBED = 64
_MAX_REORDERED = 4


@dataclass(frozen=True, slots=True)
class Built:
    """A pipeline on real devices: stages in order, phase, and good requests a second."""

    groups: tuple[Group, ...]
    phase: Phase
    value: float


class Draft:
    """Pipelines so far and the devices that none of them has."""

    def __init__(self, inventory: Inventory) -> None:
        self.inventory = inventory
        self.free: FreeDevices = inventory.all_free()
        self.built: list[Built] = []

    def copy(self) -> "Draft":
        """One that can be gone on with apart from this."""
        other = Draft.__new__(Draft)
        other.inventory, other.free = self.inventory, self.free.copy()
        other.built = list(self.built)
        return other

    @property
    def value(self) -> float:
        """Good requests a second of all pipelines, each by itself."""
        return sum(built.value for built in self.built)

    def available(self, classes: Sequence[GroupClass]) -> dict[GroupClass, int]:
        """Groups of each class that could be taken, if nothing else is."""
        return {found: self.free.count(found) for found in classes}

    def add(self, classes: Sequence[GroupClass], choice: RowChoice, phase: Phase) -> Built | None:
        """Take a row's devices; None, and nothing taken, if they lack or cannot hold the model."""
        wanted = {g: n for g, n in zip(classes, choice.counts, strict=True) if n}
        groups = self.free.take(wanted)
        if groups is None:
            return None
        built = build(self.inventory, groups, phase)
        if built is None:
            self.free.give_back(groups, self.inventory)
            return None
        self.built.append(built)
        return built

    def absorb(self) -> None:
        """Give devices left over to the pipelines that gain most by them."""
        for _ in range(_MAX_ABSORBED):
            best = self._best_gain()
            if best is None:
                return
            number, wanted, built = best
            taken = self.free.take({wanted: 1})
            if taken is None:
                return
            renewed = build(self.inventory, [*self.built[number].groups, *taken], built.phase)
            if renewed is None or renewed.value <= self.built[number].value:
                self.free.give_back(taken, self.inventory)
                return
            self.built[number] = renewed

    def _best_gain(self) -> tuple[int, GroupClass, Built] | None:
        best: tuple[int, GroupClass, Built] | None = None
        most = 1e-9
        seen: set[tuple[object, ...]] = set()
        for group_class in self.inventory.group_classes:
            taken = self.free.take({group_class: 1})
            if taken is None:
                continue
            self.free.give_back(taken, self.inventory)
            for number, old in enumerate(self.built):
                key = (group_class, self.inventory.objective.row(old.groups, old.phase))
                if key in seen:
                    continue
                seen.add(key)
                new = build(self.inventory, [*old.groups, *taken], old.phase)
                if new is not None and new.value - old.value > most:
                    most, best = new.value - old.value, (number, group_class, new)
        return best

    def placement(self) -> Placement:
        """The pipelines with their best layers."""
        objective = self.inventory.objective
        found = (objective.best_pipeline(built.groups, built.phase) for built in self.built)
        return Placement(tuple(pipeline for pipeline in found if pipeline is not None))


def build(inventory: Inventory, groups: Sequence[Group], phase: Phase) -> Built | None:
    """Groups in their best order, as a pipeline; None if they cannot hold the model."""
    objective = inventory.objective
    best = max(_orders(objective, groups), key=lambda row: objective.value(row, phase))
    value = objective.value(best, phase)
    return Built(best, phase, value) if value > 0 else None


def _orders(objective: Objective, groups: Sequence[Group]) -> list[tuple[Group, ...]]:
    """Orders worth trying: of a few groups all that differ, else that of `order_stages` both ways.

    What differs between orders is which stage holds embedding or head, and which links are used.
    """
    ordered = order_stages(objective, groups)
    if len(groups) > _MAX_REORDERED:
        return [ordered, ordered[::-1]]
    found: dict[object, tuple[Group, ...]] = {}
    for row in permutations(ordered):
        found.setdefault(objective.row(row), row)
    return list(found.values())
