"""The best plan within a budget of time: which solver when, and what came of it.

The one idea: a feasible plan first, a better one next, a bound last. `auto` proves small clusters
best; for others it builds plans by dynamic programming, walks on from the best by tabu search, lets
an integer program choose among all pipelines it finds, and spends what is left on the bound.
Everything found is scored by the one objective, so that solvers only ever help each other.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from scheduling.errors import Infeasible
from scheduling.feasibility import check_feasible, why_not
from scheduling.objective import Evaluation, Objective
from scheduling.overlapping import Overlapping
from scheduling.placement import Placement, check_placement
from scheduling.solvers import dp, exhaustive, maxflow, milp, tabu
from scheduling.solvers.bound import Bound
from scheduling.solvers.interface import Budget, Problem, Solution, Solver

SOLVERS: dict[str, Solver] = {
    "dp": dp.solve,
    "milp": milp.solve,
    "tabu": tabu.solve,
    "maxflow": maxflow.solve,
    "exhaustive": exhaustive.solve,
}
_SMALL_DEVICES = 5
_DP_PART = 0.3
_TABU_PART = 0.35
_MILP_PART = 0.2
_SETTLED = 1e-6

OnProgress = Callable[[Solution, float], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """A plan, what it will do, and how good it could be.

    Attributes:
        problem: what was asked.
        solution: the placement with score and bound.
        evaluation: its forecasts.
        spent_s: seconds that the search took.
    """

    problem: Problem
    solution: Solution
    evaluation: Evaluation
    spent_s: float


def plan(
    problem: Problem,
    *,
    budget: Budget,
    solver: str = "auto",
    seed: int = 0,
    start: Placement | None = None,
    on_progress: OnProgress | None = None,
) -> Outcome:
    """Find the best placement that the budget allows.

    Args:
        problem: what to plan for.
        budget: seconds; a first plan is found whatever it is.
        solver: one of `SOLVERS`, or "auto".
        seed: of all chance.
        start: a placement to be improved on.
        on_progress: hears of each better plan or bound, and of the seconds spent.

    Raises:
        Infeasible: nothing can serve this model here; says with which numbers.
        TooLarge: an exact solver was asked for what it is not made for.
        ValueError: there is no such solver.
    """
    if solver != "auto" and solver not in SOLVERS:
        raise ValueError(f"solver: expected auto or one of {', '.join(SOLVERS)}, got {solver!r}")
    check_feasible(problem)
    objective, best = Objective.of(problem), None
    for found in _search(problem, budget, solver, seed, start):
        better = merged(best, found)
        if better is not best:
            best = better
            if on_progress is not None:
                on_progress(best, budget.spent_s)
    if best is None:
        raise Infeasible(why_not(problem))
    check_placement(best.placement, problem.cluster, problem.shape.num_layers)
    evaluation = objective.evaluate(best.placement)
    return Outcome(problem=problem, solution=best, evaluation=evaluation, spent_s=budget.spent_s)


def merged(old: Solution | None, new: Solution) -> Solution:
    """The better placement with the lower bound; the old one itself where nothing is better."""
    if old is None:
        return new
    bound, over = min(old.bound, new.bound), _wider(old.overlapping, new.overlapping)
    if new.score > old.score:
        return replace(new, bound=max(bound, new.score), overlapping=over)
    if bound < old.bound or over is not old.overlapping:
        return replace(old, bound=max(bound, old.score), overlapping=over)
    return old


def _wider(old: Overlapping | None, new: Overlapping | None) -> Overlapping | None:
    """The one of more flow; the old one where they are equal."""
    if old is None or new is None:
        return new if old is None else old
    return new if new.tokens_per_s > old.tokens_per_s else old


def _search(
    problem: Problem, budget: Budget, solver: str, seed: int, start: Placement | None
) -> Iterator[Solution]:
    if start is not None:
        yield _scored(problem, start)
    if solver != "auto":
        found = None
        for found in SOLVERS[solver](problem, budget=budget, seed=seed, start=start):
            yield found
        if found is not None and found.gap == float("inf"):
            yield from _bounded(problem, found, budget)
        return
    if problem.cluster.num_devices <= _SMALL_DEVICES and not problem.limits.disaggregate:
        yield from milp.solve(problem, budget=budget, seed=seed)
        return
    yield from _chain(problem, budget, seed, start)


def _chain(
    problem: Problem, budget: Budget, seed: int, start: Placement | None
) -> Iterator[Solution]:
    """Dynamic programming, tabu search from its best, integer program and bound."""
    whole = budget.left_s
    best = None if start is None else _scored(problem, start)
    for found in dp.solve(problem, budget=budget.part(whole * _DP_PART), seed=seed):
        best = merged(best, found)
        yield found
    walk = budget.part(whole * _TABU_PART)
    first = None if best is None else best.placement
    for found in tabu.solve(problem, budget=walk, seed=seed, start=first):
        best = merged(best, found)
        yield found
    last = budget.part(whole * _MILP_PART)
    for found in () if last.is_spent else milp.solve(problem, budget=last, seed=seed):
        best = merged(best, found)
        yield found
    if best is not None and best.gap > _SETTLED:
        yield from _bounded(problem, best, budget)


def _bounded(problem: Problem, best: Solution, budget: Budget) -> Iterator[Solution]:
    """The same placement with ever lower bounds."""
    for bound in Bound(Objective.of(problem)).tighten(budget):
        if bound < best.bound:
            best = replace(best, bound=max(bound, best.score))
            yield best


def _scored(problem: Problem, start: Placement) -> Solution:
    check_placement(start, problem.cluster, problem.shape.num_layers)
    return Solution(placement=start, score=Objective.of(problem).score(start), solver="start")
