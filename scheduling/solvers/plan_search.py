"""Whole plans at given prices of device classes, pipelines one after another.

The one idea: `row_search` finds the groups that serve most for their price; a beam of partial plans
takes one such row after another until nothing holds the model any more, and what is left over goes
to the pipelines that gain by it. Where money counts, plans are also tried without their last rows,
and where a demand is to be met, no more is bought than is lacking.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import inf

import numpy as np

from scheduling.inventory import GroupClass
from scheduling.objective import Objective
from scheduling.placement import Phase, Placement
from scheduling.solvers.bound import Bound
from scheduling.solvers.build import Built, Draft
from scheduling.solvers.interface import Budget, Solution
from scheduling.solvers.row_knapsack import Counts
from scheduling.solvers.row_search import RowChoice, RowSearch
from scheduling.solvers.row_searches import RowSearches
from scheduling.stage_cost import Array

NAME = "dp"
_MANY_DEVICES = 64
_BEAM = 5
_BRANCH = 5
_ROWS = 3
_MAX_ROUNDS = 40
_NOISE = 0.25


@dataclass(frozen=True, slots=True)
class _State:
    """A partial plan and what it has earned above the prices of its devices."""

    draft: Draft
    profit: float


class PlanSearch:
    """Builds whole plans by given prices of device classes."""

    def __init__(self, objective: Objective) -> None:
        self.objective = objective
        self.bound = Bound(objective)
        self.inventory = self.bound.inventory
        self._rows: dict[tuple[object, ...], list[RowChoice]] = {}
        self._has_plan = False
        self._local = RowSearches.of(objective).by_site

    def price_vectors(self, budget: Budget, seed: int) -> Iterator[Array]:
        """Prices of a device of each class: its worth, the bound's, then those with noise."""
        yield self.bound.class_prices
        rng = np.random.default_rng(seed)
        for _ in self.bound.tighten(budget.part(budget.left_s / 4)):
            pass
        yield self.bound.class_prices
        for _ in range(_MAX_ROUNDS):
            noise = np.exp(rng.normal(0.0, _NOISE, len(self.bound.class_prices)))
            yield self.bound.class_prices * noise

    def plans(self, prices: Array, budget: Budget) -> Iterator[Placement]:
        """Whole plans by some prices, each also without its last pipelines where money matters.

        Where prefill and decode may be apart, first plans in which they are not.
        """
        for apart in (False, True) if "prefill" in self.bound.searches else (False,):
            yield from self._plans(prices, budget, apart=apart)

    def _plans(self, prices: Array, budget: Budget, *, apart: bool) -> Iterator[Placement]:
        states = [_State(Draft(self.inventory), 0.0)]
        width = _BEAM if self.objective.problem.cluster.num_devices <= _MANY_DEVICES else 1
        ended: list[Draft] = []
        while states:
            if budget.is_spent:  # the first plan is built to its end, later ones are dropped
                if self._has_plan:
                    return
                states, width = states[:1], 1
            grown: list[_State] = []
            for state in states:
                more = self._grow(state, prices, width, apart=apart)
                grown += more
                if not more:
                    ended.append(state.draft)
                elif self._counts_money():
                    yield from self._finish(state.draft)
            states = _distinct(sorted(grown, key=lambda s: -s.profit))[:width]
        for draft in ended:
            yield from self._finish(draft)

    def solution(self, placement: Placement) -> Solution | None:
        """A placement with its score; None if it is empty or too dear."""
        if not placement.pipelines or not self.objective.is_affordable(placement):
            return None
        score = self.objective.score(placement)
        return Solution(placement=placement, score=score, bound=self.bound.value, solver=NAME)

    def rows(
        self,
        search: RowSearch,
        prices: Array,
        available: dict[GroupClass, int],
        enough: float = inf,
    ) -> list[RowChoice]:
        """Rows with the most value for their price; with room for embedding and head if it can.

        Where more than `enough` requests a second are worth nothing, also the cheapest of those.
        """
        index = {d: i for i, d in enumerate(self.inventory.device_classes)}
        each = np.asarray([c.tp * prices[index[c.device]] for c in search.classes])
        if self.objective.problem.goal.measure == "cost":
            dollars = [c.tp * c.device.price_per_hour for c in search.classes]
            each = np.maximum(np.asarray(dollars), 1e-9)
        stock = tuple(available[c] for c in search.classes)
        key = (id(search), each.tobytes(), stock, enough)
        if key not in self._rows:
            found = search.search(each, available, spare=True)
            tight = search.search(each, available)
            self._rows[key] = found[:_ROWS] + tight[:_ROWS]
            if enough < inf:
                few = search.search(each, available, spare=True, enough=enough)
                self._rows[key] = few[:_ROWS] + self._rows[key]
        return self._rows[key]

    def _grow(self, state: _State, prices: Array, width: int, *, apart: bool) -> list[_State]:
        """The state with one more pipeline, or several alike, in a few ways."""
        grown: dict[tuple[object, ...], tuple[float, _State]] = {}
        enough = self._lacking(state.draft)
        for phase, search in self._next_searches(state.draft, apart=apart):
            available = state.draft.available(search.classes)
            for choice in self.rows(search, prices, available, enough):
                chosen = zip(search.classes, choice.counts, strict=True)
                key = (phase, *((c, n) for c, n in chosen if n))
                if key in grown:
                    continue
                draft = state.draft.copy()
                built = self._take(draft, search, choice, phase, width, available)
                if built is None:
                    continue
                profit = state.profit + draft.value - state.draft.value
                profit -= self._paid(draft.built[len(state.draft.built) :], prices)
                worth = min(built.value, enough) / choice.price
                grown[key] = (worth, _State(draft, profit))
        ranked = sorted(grown.values(), key=lambda pair: -pair[0])
        return [grown_state for _, grown_state in ranked[: max(1, min(width, _BRANCH))]]

    def _take(
        self,
        draft: Draft,
        search: RowSearch,
        choice: RowChoice,
        phase: Phase,
        width: int,
        available: dict[GroupClass, int],
    ) -> Built | None:
        """Take a row's devices; in a big cluster as often as half of what there is allows."""
        built = draft.add(search.classes, choice, phase)
        if built is None or not self._is_affordable(draft):
            return None
        if width == 1 and not self._counts_money():
            for _ in range(_times(search.classes, choice.counts, available) // 2):
                if draft.add(search.classes, choice, phase) is None:
                    break
        return built

    def searches(self) -> Iterator[tuple[Phase, RowSearch]]:
        """Searches within each site, and over all; in each phase that pipelines may serve."""
        for search in self._local:
            yield "both", search
        yield from self.bound.searches.items()

    def _next_searches(self, draft: Draft, *, apart: bool) -> Iterator[tuple[Phase, RowSearch]]:
        """Of pipelines for both phases, or of those for the phase that lags."""
        if not apart:
            for search in self._local:
                yield "both", search
            yield "both", self.bound.searches["both"]
            return
        done: dict[Phase, float] = {"prefill": 0.0, "decode": 0.0}
        for built in draft.built:
            done[built.phase] += built.value
        lagging: Phase = "prefill" if done["prefill"] <= done["decode"] else "decode"
        yield lagging, self.bound.searches[lagging]

    def _lacking(self, draft: Draft) -> float:
        """Requests a second that are still to be served where more are worth nothing."""
        problem = self.objective.problem
        if problem.goal.measure != "cost" or problem.workload.rate is None:
            return inf
        left = problem.workload.rate - draft.value
        return left if left > 0 else inf

    def _finish(self, draft: Draft) -> Iterator[Placement]:
        if draft.built:
            self._has_plan = True
            yield draft.placement()
            if not self._counts_money():
                fuller = draft.copy()
                fuller.absorb()
                yield fuller.placement()

    def _paid(self, built: list[Built], prices: Array) -> float:
        index = {d: i for i, d in enumerate(self.inventory.device_classes)}
        return sum(
            len(group.devices) * float(prices[index[self.inventory.class_of(group)]])
            for pipeline in built
            for group in pipeline.groups
        )

    def _counts_money(self) -> bool:
        goal = self.objective.problem.goal
        return goal.measure == "cost" or goal.budget_per_hour is not None

    def _is_affordable(self, draft: Draft) -> bool:
        budget = self.objective.problem.goal.budget_per_hour
        if budget is None:
            return True
        nodes = sorted({group.node for built in draft.built for group in built.groups})
        return sum(self.objective.price(node) for node in nodes) <= budget * (1 + 1e-9)


def _times(
    classes: tuple[GroupClass, ...], counts: Counts, available: dict[GroupClass, int]
) -> int:
    """How often a row's groups are there beyond the first time."""
    pairs = zip(classes, counts, strict=True)
    return min(available[found] // count for found, count in pairs if count) - 1


def _distinct(states: list[_State]) -> list[_State]:
    """States that differ in what their pipelines are worth."""
    seen: dict[tuple[float, ...], _State] = {}
    for state in states:
        key = tuple(sorted(round(built.value, 9) for built in state.draft.built))
        seen.setdefault(key, state)
    return list(seen.values())
