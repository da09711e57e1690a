"""What no placement can exceed, whatever its pipelines: by prices of devices.

The one idea: give every device a price such that no pipeline is worth more than its devices cost;
then nothing is worth more than all devices together cost (weak duality of the configuration linear
program; Gilmore, Gomory, A linear programming approach to the cutting-stock problem, 1961). Prices
are found by column generation; `row_search` finds the pipeline worth most for its price, with its
value rounded up, so that every step gives a bound that holds.

Limits: pipelines may be taken in fractions and links are free, so that in a small cluster the bound
can lie well above what is possible.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linprog

from scheduling.objective import Objective
from scheduling.placement import PHASES, Phase
from scheduling.solvers.interface import Budget
from scheduling.solvers.row_search import RowChoice, RowSearch
from scheduling.solvers.row_searches import RowSearches
from scheduling.stage_cost import Array

_MAX_ROUNDS = 60
_CLOSE = 1e-3
_LEAST = 1e-9


@dataclass(frozen=True, slots=True)
class _Prices:
    """Of a device of each class, a dollar of the budget, and a request's prefill or decode."""

    devices: Array
    dollar: float
    phases: dict[Phase, float]


class Bound:
    """The least bound found so far on a problem's score, and the prices that show it."""

    def __init__(self, objective: Objective) -> None:
        self.objective = objective
        searches = RowSearches.of(objective)
        self.inventory, self.searches = searches.inventory, searches.by_phase
        self._all = searches.all
        self._goal = objective.problem.goal
        self.stock = np.asarray(
            [self.inventory.num_devices(d) for d in self.inventory.device_classes], np.float64
        )
        self.value = float("inf")
        self.device_prices = self._worth()
        self.dollar_price = self._dollar()
        self._columns: list[tuple[RowSearch, RowChoice]] = []

    def tighten(self, budget: Budget) -> Iterator[float]:
        """Yield ever lower bounds on the score, until they settle or the budget is spent."""
        if self._goal.measure == "cost":
            yield self._by_dollars()
            return
        prices = _Prices(self.device_prices, self._dollar(), dict.fromkeys(PHASES, 0.5))
        for _ in range(_MAX_ROUNDS):
            over = self._price_out(prices, budget)
            if over is None:
                return
            stock = float(self.stock @ prices.devices) + self._dollars() * prices.dollar
            bound = over * stock * self._tokens()
            if bound < self.value:
                self.value, self.device_prices = bound, prices.devices * over
                self.dollar_price = prices.dollar * over
                yield bound
            if budget.is_spent:
                return
            prices, reached = self._master()
            if self.value <= reached * self._tokens() * (1 + _CLOSE):
                return

    # --- prices

    @property
    def class_prices(self) -> Array:
        """What a device of each class costs at the best prices: itself, and its dollars."""
        dollars = [device.price_per_hour for device in self.inventory.device_classes]
        return self.device_prices + self.dollar_price * np.asarray(dollars)

    def group_prices(self, prices: _Prices, search: RowSearch) -> Array:
        """What a group of each class costs by the prices of devices and dollars."""
        index = {d: i for i, d in enumerate(self.inventory.device_classes)}
        each = [
            c.tp * (prices.devices[index[c.device]] + prices.dollar * c.device.price_per_hour)
            for c in search.classes
        ]
        result: Array = np.maximum(np.asarray(each, np.float64), _LEAST)
        return result

    def _worth(self) -> Array:
        """A first price of a device: layers times tokens a second, at its best step."""
        table = self.objective.table
        rates = []
        for device in self.inventory.device_classes:
            group = next(g for g in self.inventory.group_classes if g.device == device)
            cost = table.cost(group.group, "both")
            rates.append(float((table.grid("both").requests / cost.layer_s).max()))
        return np.asarray(rates) / table.shape.num_layers

    def _dollar(self) -> float:
        """A first price of a dollar: 0 where dollars are no constraint."""
        budget = self._goal.budget_per_hour
        if budget is None:
            return 0.0
        return float(self.stock @ self.device_prices) / budget

    def _dollars(self) -> float:
        return self._goal.budget_per_hour or 0.0

    def _tokens(self) -> float:
        return self.objective.problem.workload.mean_output

    # --- rounds

    def _price_out(self, prices: _Prices, budget: Budget) -> float | None:
        """The most that a pipeline is worth for its price; None where the budget ended first."""
        over = 0.0
        for search in self._all:
            phase = search.phase
            if budget.is_spent and self.value < float("inf"):
                return None
            found = search.search(self.group_prices(prices, search), proven=True)
            weight = 1.0 if phase == "both" else prices.phases[phase]
            for choice in found:
                over = max(over, weight * choice.value / choice.least_price)
                self._columns.append((search, choice))
        return over

    def _master(self) -> tuple[_Prices, float]:
        """Prices at which the pipelines known so far are worth what they cost, and their sum.

        Variables: each known pipeline's number, then the requests that go from prefill to decode.
        """
        num = len(self._columns)
        num_classes = len(self.stock)
        rows = np.zeros((num_classes + 3, num + 1))
        gain = np.zeros(num + 1)
        index = {d: i for i, d in enumerate(self.inventory.device_classes)}
        for column, (search, choice) in enumerate(self._columns):
            phase = search.phase
            for group, count in zip(search.classes, choice.counts, strict=True):
                rows[index[group.device], column] += count * group.tp
                rows[num_classes, column] += count * group.tp * group.device.price_per_hour
            gain[column] = choice.value if phase == "both" else 0.0
            if phase != "both":
                rows[num_classes + 1 + (phase == "decode"), column] = -choice.value
        rows[num_classes + 1 :, num] = 1.0
        gain[num] = 1.0
        dollars = self._goal.budget_per_hour
        room = np.concatenate([self.stock, [np.inf if dollars is None else dollars, 0.0, 0.0]])
        used = np.isfinite(room)
        found = linprog(-gain, A_ub=rows[used], b_ub=room[used], bounds=(0, None))
        duals = np.zeros(len(room))
        duals[used] = -found.ineqlin.marginals
        phases: dict[Phase, float] = {
            "both": 1.0,
            "prefill": duals[num_classes + 1],
            "decode": duals[num_classes + 2],
        }
        # a class that is plentiful has price 0; a trace of worth keeps its pipelines finite
        devices = np.maximum(duals[:num_classes], 1e-6 * self._worth())
        return _Prices(devices, float(duals[num_classes]), phases), float(-found.fun)

    def _by_dollars(self) -> float:
        """The most tokens a dollar of any pipeline: a mean of several is no more than the best."""
        over = 0.0
        nothing = _Prices(np.zeros_like(self.stock), 1.0, dict.fromkeys(PHASES, 1.0))
        for search in self._all:
            for choice in search.search(self.group_prices(nothing, search), proven=True)[:1]:
                over = max(over, choice.value / choice.least_price)
        self.value = over * self._tokens() * 3600
        return self.value
