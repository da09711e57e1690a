"""All pipelines at once, as a mixed-integer linear program over pipelines that could be (HiGHS).

The one idea: once it is known what each possible pipeline is worth, choosing among them is set
packing: over all pipelines of a small cluster (`milp_exact`), which is exact, or over rows of
device classes in a large one (`milp_classes`).
"""

from collections.abc import Iterator

from scheduling.errors import TooLarge
from scheduling.objective import Objective
from scheduling.placement import Placement
from scheduling.solvers.columns import all_columns
from scheduling.solvers.interface import Budget, Problem, Solution
from scheduling.solvers.milp_classes import ClassPacking
from scheduling.solvers.milp_exact import ExactPacking

_MAX_EXACT_DEVICES = 7


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
            yield from ExactPacking(objective, all_columns(objective)).solutions(budget)
        except TooLarge:
            yield from ClassPacking(objective).solutions(budget, seed)
    else:
        yield from ClassPacking(objective).solutions(budget, seed)
