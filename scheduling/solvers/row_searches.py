"""Every search for rows that a problem needs: by phase, and within each of many sites.

The one idea: a row of several sites crosses a line between two of them, so that the search over all
classes may count on the fastest such line; rows inside a site are found by a search of their own.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from math import inf

from scheduling.inventory import Inventory
from scheduling.objective import Objective
from scheduling.placement import PHASES, Phase
from scheduling.solvers.row_search import RowSearch


@dataclass(frozen=True, slots=True)
class RowSearches:
    """The searches of a problem: over all classes in each phase, and within each of many sites."""

    inventory: Inventory
    by_phase: Mapping[Phase, RowSearch]
    by_site: tuple[RowSearch, ...]

    @property
    def all(self) -> tuple[RowSearch, ...]:
        """Those whose rows together are all there can be."""
        return (*self.by_phase.values(), *self.by_site)

    @classmethod
    def of(cls, objective: Objective) -> "RowSearches":
        """The problem's own, whose points are computed once for all solvers."""
        derived = objective.problem.derived
        if "searches" not in derived:
            derived["searches"] = cls._make(objective)
        found: RowSearches = derived["searches"]
        return found

    @classmethod
    def _make(cls, objective: Objective) -> "RowSearches":
        inventory = Inventory(objective)
        phases = PHASES if objective.problem.limits.disaggregate else PHASES[:1]
        classes = inventory.group_classes
        sites = sorted({found.device.site for found in classes})
        by_site = [
            RowSearch(inventory, "both", [c for c in classes if c.device.site == site])
            for site in (sites if len(sites) > 1 else [])
        ]
        # a row of several sites crosses a line between two of them; others are found by site
        crossed = _fastest_line(objective) if by_site else inf
        by_phase = {
            p: RowSearch(inventory, p, None, crossed if len(phases) == 1 else inf) for p in phases
        }
        return cls(inventory, by_phase, tuple(by_site))


def _fastest_line(objective: Objective) -> float:
    """Bytes a second between nodes of two sites, at most."""
    cluster = objective.problem.cluster
    first = {node.site: node.id for node in reversed(cluster.nodes)}
    between = [cluster.link(a, b).bytes_per_s for a, b in combinations(first.values(), 2)]
    return max([*between, *(link.rate.bytes_per_s for link in cluster.links)])
