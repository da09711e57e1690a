"""Every pipeline that a small cluster allows: what exact solvers choose from.

The one idea: what a pipeline is worth depends on its own groups only, so that of all orders of the
same devices the best one stands for them all. Where pipelines share a line between sites, the order
that is best alone is taken to be best together.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from scheduling.errors import TooLarge
from scheduling.inventory import Inventory
from scheduling.objective import Objective
from scheduling.placement import PHASES, Group, Phase

MAX_ROWS = 20_000
"""Rows of groups that are looked at, at most: 7 devices without TP."""

Devices = frozenset[tuple[str, int]]


@dataclass(frozen=True, slots=True)
class Column:
    """A pipeline that could be: its groups in order, its phase, and good requests a second."""

    groups: tuple[Group, ...]
    phase: Phase
    value: float

    @property
    def devices(self) -> Devices:
        """All devices it uses."""
        return devices_of(self.groups)


def devices_of(groups: tuple[Group, ...]) -> Devices:
    """All devices of some groups."""
    return frozenset((group.node, index) for group in groups for index in group.devices)


def all_columns(objective: Objective) -> list[Column]:
    """The best pipeline on each set of devices that can hold the model, for each phase.

    Raises:
        TooLarge: there are more than `MAX_ROWS` rows of groups.

    Complexity: rows grow as the factorial of the devices.
    """
    problem = objective.problem
    phases = PHASES if problem.limits.disaggregate else ("both",)
    groups = Inventory(objective).groups()
    rows = list(islice(_rows(groups, (), problem.shape.num_layers), MAX_ROWS + 1))
    if len(rows) > MAX_ROWS:
        raise TooLarge(
            f"{problem.cluster.num_devices} devices give more than {MAX_ROWS} pipelines to choose "
            f"from; use 'dp', 'tabu' or 'auto'"
        )
    best: dict[tuple[Devices, Phase], Column] = {}
    for row in rows:
        for phase in phases:
            value = objective.value(row, phase)
            key = (devices_of(row), phase)
            if value > 0 and (key not in best or value > best[key].value):
                best[key] = Column(row, phase, value)
    return list(best.values())


def _rows(
    groups: tuple[Group, ...], row: tuple[Group, ...], num_layers: int
) -> Iterator[tuple[Group, ...]]:
    """All rows of disjoint groups."""
    if len(row) == num_layers:
        return
    used = devices_of(row)
    for group in groups:
        if not used & devices_of((group,)):
            longer = (*row, group)
            yield longer
            yield from _rows(groups, longer, num_layers)
