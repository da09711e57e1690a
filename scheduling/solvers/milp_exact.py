"""Set packing over all pipelines of a small cluster: proven best.

The one idea: with every pipeline listed (`columns`) and its value known, choosing among them is a
linear program in whole numbers, whose rows are devices, paid nodes, lines between sites and the
workload's demand.

Tokens a dollar are a ratio of two linear terms; they are maximised by solving for ever better
ratios (Dinkelbach, On nonlinear fractional programming, Management Science 1967).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from scheduling.forecast import Forecast
from scheduling.objective import Objective
from scheduling.placement import Placement
from scheduling.solvers.columns import Column
from scheduling.solvers.interface import Budget, Solution
from scheduling.solvers.milp_program import Program
from scheduling.stage_cost import Array

NAME = "milp"
_MAX_RATIOS = 12


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


class ExactPacking:
    """Set packing over all pipelines of a small cluster."""

    def __init__(self, objective: Objective, columns: Sequence[Column]) -> None:
        self._objective, self._columns = objective, columns
        self._problem = objective.problem
        nodes = sorted({g.node for column in columns for g in column.groups})
        self._layout = _Layout(len(columns), tuple(nodes))

    def solutions(self, budget: Budget) -> Iterator[Solution]:
        """The best choice, with its bound; none where no pipeline can be."""
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

    def _program(self) -> Program:
        layout = self._layout
        program = Program(layout.size)
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
