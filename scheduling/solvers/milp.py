"""All pipelines at once, as a mixed-integer linear program over pipelines that could be (HiGHS).

The one idea: once it is known what each possible pipeline is worth, choosing among them is set
packing. In a small cluster all of them are listed (`columns`), and the program is exact: devices,
paid nodes, lines between sites and the workload's demand are its rows. In a large one the columns
are rows of device classes that `row_search` finds at the prices of the bound's linear program, so
that the program has a row for each class and not for each device; the counts it chooses are then
put on real devices.

Tokens a dollar are a ratio of two linear terms; they are maximised by solving for ever better
ratios (Dinkelbach, On nonlinear fractional programming, Management Science 1967).
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp

from scheduling.errors import TooLarge
from scheduling.forecast import Forecast
from scheduling.objective import Objective
from scheduling.placement import Placement
from scheduling.solvers.build import Built, Draft
from scheduling.solvers.columns import Column, all_columns
from scheduling.solvers.dp import PlanSearch
from scheduling.solvers.interface import Budget, Problem, Solution
from scheduling.solvers.row_search import Counts, RowChoice, RowSearch
from scheduling.stage_cost import Array

NAME = "milp"
_MAX_EXACT_DEVICES = 7
_MAX_RATIOS = 12
_NODE_LIMIT = 200_000


def solve(
    problem: Problem, *, budget: Budget, seed: int = 0, start: Placement | None = None
) -> Iterator[Solution]:
    """Exact for small clusters (and then the bound is the score), by classes for large ones.

    Args:
        problem: any size. Where prefill and decode are apart, columns are chosen by classes.
        budget: also ends the program's own search.
        seed: of the prices that columns are found by.
        start: of no use here: the program keeps its own best.
    """
    objective = Objective.of(problem)
    small = problem.cluster.num_devices <= _MAX_EXACT_DEVICES
    if small and not problem.limits.disaggregate:
        try:
            yield from _Exact(objective, all_columns(objective)).solutions(budget)
        except TooLarge:
            yield from _ByClass(objective).solutions(budget, seed)
    else:
        yield from _ByClass(objective).solutions(budget, seed)


class _Program:
    """Rows of a program as they are added, and HiGHS to solve it."""

    def __init__(self, num_variables: int) -> None:
        self.num_variables = num_variables
        self._rows: list[Array] = []
        self._low: list[float] = []
        self._high: list[float] = []

    def add(self, row: Array, low: float, high: float) -> None:
        self._rows.append(row)
        self._low.append(low)
        self._high.append(high)

    def maximise(
        self, gain: Array, integral: Array, upper: Array, budget: Budget
    ) -> tuple[Array, float] | None:
        """The best point found and the bound; None if nothing was found in time."""
        limit = {"time_limit": max(budget.left_s, 1e-3), "node_limit": _NODE_LIMIT}
        found = milp(
            -gain,
            integrality=integral,
            bounds=Bounds(np.zeros(len(gain)), upper),
            constraints=LinearConstraint(
                np.stack(self._rows), np.asarray(self._low), np.asarray(self._high)
            ),
            options={**limit, "mip_rel_gap": 1e-9},
        )
        if found.x is None:
            return None
        bound = found.mip_dual_bound
        return found.x, float("inf") if bound is None else -float(bound)


@dataclass(frozen=True, slots=True)
class _Layout:
    """Where the variables lie: columns chosen, nodes paid, requests served by each column."""

    num_columns: int
    nodes: tuple[str, ...]

    @property
    def size(self) -> int:
        return 2 * self.num_columns + len(self.nodes)

    def served(self, column: int) -> int:
        return self.num_columns + len(self.nodes) + column


class _Exact:
    """Set packing over all pipelines of a small cluster."""

    def __init__(self, objective: Objective, columns: Sequence[Column]) -> None:
        self._objective, self._columns = objective, columns
        self._problem = objective.problem
        nodes = sorted({g.node for column in columns for g in column.groups})
        self._layout = _Layout(len(columns), tuple(nodes))

    def solutions(self, budget: Budget) -> Iterator[Solution]:
        if not self._columns:
            return
        measure = self._problem.goal.measure
        yield from self._by_cost(budget) if measure == "cost" else self._by_value(budget)

    def _by_value(self, budget: Budget) -> Iterator[Solution]:
        found = self._program().maximise(self._served_gain(), *self._kinds(), budget)
        if found is not None:
            yield from self._solution(found[0], found[1] * self._tokens())

    def _by_cost(self, budget: Budget) -> Iterator[Solution]:
        """Meet the demand as cheaply as can be; else, or where there is none, the best ratio."""
        load = self._problem.workload
        if load.rate is not None:
            program = self._program()
            program.add(self._served_gain(), load.rate, np.inf)
            found = program.maximise(-self._prices(), *self._kinds(), budget)
            if found is not None:
                tokens = load.rate * self._tokens() * 3600
                yield from self._solution(found[0], tokens / max(-found[1], 1e-12))
                return
            found = self._program().maximise(self._served_gain(), *self._kinds(), budget)
            if found is not None:
                yield from self._solution(found[0], found[1] / load.rate - 1.0)
            return
        yield from self._best_ratio(budget)

    def _best_ratio(self, budget: Budget) -> Iterator[Solution]:
        served, prices = self._served_gain(), self._prices()
        ratio, best = 0.0, None
        for _ in range(_MAX_RATIOS):
            found = self._program().maximise(served - ratio * prices, *self._kinds(), budget)
            if found is None or not found[0] @ prices:
                break
            best, old = found[0], ratio
            ratio = float((found[0] @ served) / (found[0] @ prices))
            if ratio <= old * (1 + 1e-9):
                break
        if best is not None:
            yield from self._solution(best, ratio * self._tokens() * 3600)

    def _program(self) -> _Program:
        layout = self._layout
        program = _Program(layout.size)
        for device in sorted({d for column in self._columns for d in column.devices}):
            row = np.zeros(layout.size)
            row[: layout.num_columns] = [device in column.devices for column in self._columns]
            program.add(row, -np.inf, 1.0)
        for number, column in enumerate(self._columns):
            row = np.zeros(layout.size)
            row[layout.served(number)], row[number] = 1.0, -self._rate(column).requests_per_s
            program.add(row, -np.inf, 0.0)
            for node in {group.node for group in column.groups}:
                paid = np.zeros(layout.size)
                paid[number] = 1.0
                paid[layout.num_columns + layout.nodes.index(node)] = -1.0
                program.add(paid, -np.inf, 0.0)
        money = self._problem.goal.budget_per_hour
        if money is not None:
            program.add(self._prices(), -np.inf, money)
        for row, room in self._lines().values():
            program.add(row / room, -np.inf, 1.0)
        return program

    def _lines(self) -> dict[frozenset[str], tuple[Array, float]]:
        rows: dict[frozenset[str], tuple[Array, float]] = {}
        for number, column in enumerate(self._columns):
            for line, num_bytes in self._objective.traffic(column.groups, column.phase).items():
                row, _ = rows.setdefault(
                    line, (np.zeros(self._layout.size), self._objective.line_rate(line))
                )
                row[self._layout.served(number)] = num_bytes
        return rows

    def _rate(self, column: Column) -> Forecast:
        row = self._objective.row(column.groups, column.phase)
        found = self._objective.forecaster.forecast(row)
        assert found is not None  # every column can hold the model
        return found

    def _served_gain(self) -> Array:
        gain = np.zeros(self._layout.size)
        for number, column in enumerate(self._columns):
            gain[self._layout.served(number)] = self._rate(column).good_part
        return gain

    def _prices(self) -> Array:
        prices = np.zeros(self._layout.size)
        first = self._layout.num_columns
        for number, node in enumerate(self._layout.nodes):
            prices[first + number] = self._objective.price(node)
        return prices

    def _kinds(self) -> tuple[Array, Array]:
        """Which variables are whole, and how large each may be."""
        layout = self._layout
        whole = np.zeros(layout.size)
        whole[: layout.num_columns + len(layout.nodes)] = 1
        upper = np.ones(layout.size)
        upper[layout.served(0) :] = np.inf
        return whole, upper

    def _tokens(self) -> float:
        return self._problem.workload.mean_output

    def _solution(self, point: Array, bound: float) -> Iterator[Solution]:
        chosen = [c for c, x in zip(self._columns, point, strict=False) if x > 0.5]
        pipelines = (self._objective.best_pipeline(c.groups, c.phase) for c in chosen)
        placement = Placement(tuple(p for p in pipelines if p is not None))
        if chosen:
            score = self._objective.score(placement)
            bound = max(bound, score)
            yield Solution(placement=placement, score=score, bound=bound, solver=NAME)


@dataclass(frozen=True, slots=True)
class _ClassColumn:
    """A row of classes that some pipeline was built from, and its value as built."""

    search: RowSearch
    counts: Counts
    value: float


class _ByClass:
    """Set packing over rows of device classes."""

    def __init__(self, objective: Objective) -> None:
        self._plans = PlanSearch(objective)
        self._objective = objective
        self._pool: dict[tuple[int, Counts], _ClassColumn] = {}

    def solutions(self, budget: Budget, seed: int) -> Iterator[Solution]:
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

    def _program(self, columns: Sequence[_ClassColumn]) -> _Program:
        """Devices of each class, the money, and where phases are apart, equal flow through both.

        The last variable is the requests that pass from prefill to decode.
        """
        inventory = self._plans.inventory
        program = _Program(len(columns) + 1)
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
