"""Every choice of disjoint pipelines, scored one by one: the oracle for small clusters.

It takes no shortcut that rests on how the objective is built, but for the order of the stages on
a set of devices (see `columns`), so that other solvers can be held against it.
"""

from collections.abc import Iterator, Sequence
from math import inf

from scheduling.objective import Objective
from scheduling.placement import Placement
from scheduling.solvers.columns import Column, Devices, all_columns
from scheduling.solvers.interface import Budget, Problem, Solution

NAME = "exhaustive"


def solve(
    problem: Problem, *, budget: Budget, seed: int = 0, start: Placement | None = None
) -> Iterator[Solution]:
    """Try all; the last solution is proven best if the budget was enough.

    Args:
        problem: a small one.
        budget: where it ends before all is tried, the last solution carries no bound.
        seed: of no use here: there is no chance in it.
        start: of no use here: all is tried anyway.

    Raises:
        TooLarge: there are too many pipelines to try.
    """
    objective = Objective.of(problem)
    columns = all_columns(objective)
    best: Solution | None = None
    for chosen in _packings(columns, sorted({d for c in columns for d in c.devices}), frozenset()):
        if budget.is_spent:
            return
        placement = _place(objective, chosen)
        if not chosen or not objective.is_affordable(placement):
            continue
        score = objective.score(placement)
        if best is None or score > best.score:
            best = Solution(placement=placement, score=score, bound=inf, solver=NAME)
            yield best
    if best is not None:
        yield Solution(placement=best.placement, score=best.score, bound=best.score, solver=NAME)


def _place(objective: Objective, columns: Sequence[Column]) -> Placement:
    pipelines = (objective.best_pipeline(column.groups, column.phase) for column in columns)
    return Placement(tuple(pipeline for pipeline in pipelines if pipeline is not None))


def _packings(
    columns: Sequence[Column], devices: Sequence[tuple[str, int]], used: Devices
) -> Iterator[tuple[Column, ...]]:
    """All sets of columns that share no device: the first device left is used by one, or idle."""
    if not devices:
        yield ()
        return
    first, rest = devices[0], devices[1:]
    yield from _packings(columns, rest, used)
    if first in used:
        return
    for column in columns:
        its = column.devices
        if first in its and not its & used and min(its) == first:
            for others in _packings(columns, rest, used | its):
                yield (column, *others)
