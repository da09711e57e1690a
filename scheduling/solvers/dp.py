"""Pipelines one after another by dynamic programming, several partial plans side by side.

The one idea: `row_search` finds the groups that serve most for their price; a beam of partial plans
takes one such row after another until nothing holds the model any more, and what is left over goes
to the pipelines that gain by it. A device's price is what it could earn elsewhere: first its speed,
then the prices of the bound's linear program, then those with some noise, so that ever other plans
are tried until the budget is spent.

Complexity: O(C log N * L * Q) a row, for C classes, N groups, L layers and Q operating points
that are not pruned; the number of devices hardly matters, only how many kinds there are.
"""

from collections.abc import Iterator

from scheduling.objective import Objective
from scheduling.placement import Placement
from scheduling.solvers.interface import Budget, Problem, Solution
from scheduling.solvers.plan_search import PlanSearch

_PATIENCE = 12


def solve(
    problem: Problem, *, budget: Budget, seed: int = 0, start: Placement | None = None
) -> Iterator[Solution]:
    """Yield better plans by ever other prices of devices.

    Args:
        problem: any size.
        budget: looked at after each plan.
        seed: of the noise in the later prices.
        start: of no use here: every plan is built from nothing.
    """
    search = PlanSearch(Objective.of(problem))
    best: Solution | None = None
    idle = 0
    for prices in search.price_vectors(budget, seed):
        idle += 1
        for placement in search.plans(prices, budget):
            found = search.solution(placement)
            if found is not None and (best is None or found.score > best.score):
                best, idle = found, 0
                yield found
        if budget.is_spent or idle >= _PATIENCE:
            return
