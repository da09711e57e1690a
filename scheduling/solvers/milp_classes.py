"""Set packing over rows of device classes, for clusters of which all pipelines cannot be listed.

The one idea: the columns are rows that `row_search` finds at the prices of the bound's linear
program, so that the program has a row for each class and not for each device; the counts that it
chooses are then put on real devices.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from scheduling.objective import Objective
from scheduling.placement import Placement
from scheduling.solvers.build import Built, Draft
from scheduling.solvers.interface import Budget, Solution
from scheduling.solvers.milp_program import Program
from scheduling.solvers.plan_search import PlanSearch
from scheduling.solvers.row_knapsack import Counts
from scheduling.solvers.row_search import RowChoice, RowSearch
from scheduling.stage_cost import Array

NAME = "milp"


@dataclass(frozen=True, slots=True)
class _ClassColumn:
    """A row of classes that some pipeline was built from, and its value as built."""

    search: RowSearch
    counts: Counts
    value: float


class ClassPacking:
    """Set packing over rows of device classes."""

    def __init__(self, objective: Objective) -> None:
        self._plans = PlanSearch(objective)
        self._objective = objective
        self._pool: dict[tuple[int, Counts], _ClassColumn] = {}

    def solutions(self, budget: Budget, seed: int) -> Iterator[Solution]:
        """Ever better choices, and the bound at the end."""
        best: Solution | None = None
        for prices in self._plans.price_vectors(budget, seed):
            self._fill_pool(prices, budget)
            placement = self._choose(budget)
            found = None if placement is None else self._plans.solution(placement)
            if found is not None and (best is None or found.score > best.score):
                best = replace(found, solver=NAME)
                yield best
            if budget.is_spent:
                break
        bound = self._plans.bound.value
        if best is not None and bound < best.bound:
            yield replace(best, bound=bound)

    def _fill_pool(self, prices: Array, budget: Budget) -> None:
        """Rows that are good at these prices, from all that is free and from what is left."""
        for phase, search in self._plans.searches():
            draft = Draft(self._plans.inventory)
            while True:
                available = draft.available(search.classes)
                rows = self._plans.rows(search, prices, available)
                added = [self._add(search, row) for row in rows]
                good = [row for row, value in zip(rows, added, strict=True) if value > 0]
                if not good or draft.add(search.classes, good[0], phase) is None:
                    break
                while draft.add(search.classes, good[0], phase) is not None:
                    pass
                if budget.is_spent and self._pool:
                    return

    def _add(self, search: RowSearch, row: RowChoice) -> float:
        key = (id(search), row.counts)
        if key not in self._pool:
            built = Draft(self._plans.inventory).add(search.classes, row, search.phase)
            value = 0.0 if built is None else built.value
            self._pool[key] = _ClassColumn(search, row.counts, value)
        return self._pool[key].value

    def _choose(self, budget: Budget) -> Placement | None:
        columns = [column for column in self._pool.values() if column.value > 0]
        if not columns:
            return None
        found = self._program(columns).maximise(
            self._gain(columns),
            np.append(np.ones(len(columns)), 0),
            np.full(len(columns) + 1, np.inf),
            budget,
        )
        if found is None:
            return None
        return self._put(columns, found[0])

    def _program(self, columns: Sequence[_ClassColumn]) -> Program:
        """Devices of each class, the money, and where phases are apart, equal flow through both.

        The last variable is the requests that pass from prefill to decode.
        """
        inventory = self._plans.inventory
        program = Program(len(columns) + 1)
        rows: dict[object, Array] = defaultdict(lambda: np.zeros(len(columns) + 1))
        money = rows["money"]
        for number, column in enumerate(columns):
            for group, count in zip(column.search.classes, column.counts, strict=True):
                rows[group.device][number] += count * group.tp
                money[number] += count * group.tp * group.device.price_per_hour
        for device in inventory.device_classes:
            program.add(rows[device], -np.inf, float(inventory.num_devices(device)))
        dollars = self._objective.problem.goal.budget_per_hour
        if dollars is not None:
            program.add(money, -np.inf, dollars)
        for phase in ("prefill", "decode"):
            row = np.asarray([-c.value * (c.search.phase == phase) for c in columns] + [1.0])
            program.add(row, -np.inf, 0.0)
        return program

    def _gain(self, columns: Sequence[_ClassColumn]) -> Array:
        both = [c.value if c.search.phase == "both" else 0.0 for c in columns]
        return np.asarray([*both, 1.0])

    def _put(self, columns: Sequence[_ClassColumn], point: Array) -> Placement:
        """The chosen rows on real devices, the dearest first; what lacks is left out."""
        draft = Draft(self._plans.inventory)
        order = sorted(range(len(columns)), key=lambda c: -columns[c].value)
        for number in order:
            column = columns[number]
            row = RowChoice(column.counts, column.value, 1.0, 1.0)
            for _ in range(round(float(point[number]))):
                built: Built | None = draft.add(column.search.classes, row, column.search.phase)
                if built is None:
                    break
        if self._objective.problem.goal.budget_per_hour is None:
            draft.absorb()
        return draft.placement()
