"""The one signature of all solvers: a problem in, ever better solutions out.

The one idea: a solver is a generator. It yields each improvement as soon as it has it, with what
it knows of the best that could be, and looks at the budget between two steps of its work; whoever
iterates may stop at any time and keep the last. Score, bound and budget mean the same in all of
them, since one objective (`scheduling.objective`) scores every placement.

    for solution in solve(problem, budget=Budget(seconds=2, clock=clock), seed=0):
        print(solution.score, solution.gap)
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from math import inf
from typing import Any, Protocol

from scheduling.cluster import Cluster
from scheduling.goal import Goal, Limits
from scheduling.overlapping import Overlapping
from scheduling.placement import Placement
from scheduling.roofline import ModelShape
from scheduling.workload import Workload

Clock = Callable[[], float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """All that a placement is chosen for.

    Attributes:
        cluster: what there is.
        shape: the model.
        workload: lengths and rate of the requests.
        goal: what is to be best, and the constraints (budget, latencies).
        limits: how requests are batched and which shapes of stage may be used.
        derived: what is computed from all of this once, shared by solvers; no part of its value.
    """

    cluster: Cluster
    shape: ModelShape
    workload: Workload
    goal: Goal = field(default_factory=Goal)
    limits: Limits = field(default_factory=Limits)
    derived: dict[str, Any] = field(default_factory=dict, init=False, compare=False, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Solution:
    """A feasible placement, its score by the objective, and what no placement can exceed.

    Attributes:
        placement: what runs where.
        score: more is better; the unit is the goal's.
        bound: no placement scores more; infinite where the solver knows none.
        solver: which solver found it.
        overlapping: a placement with overlapping layer ranges that was found beside it, where the
            solver looks at such.
    """

    placement: Placement
    score: float
    bound: float = inf
    solver: str = ""
    overlapping: Overlapping | None = None

    @property
    def gap(self) -> float:
        """How much better than this the best could be, as a part of this; 0 is proven best."""
        if self.bound == inf:
            return inf
        return max(0.0, (self.bound - self.score) / max(abs(self.score), 1e-12))


class Budget:
    """Seconds that may be spent, by a clock that is handed in."""

    def __init__(self, *, seconds: float, clock: Clock) -> None:
        self.seconds = seconds
        self._clock = clock
        self._start = clock()

    @property
    def spent_s(self) -> float:
        """Since it was made."""
        return self._clock() - self._start

    @property
    def left_s(self) -> float:
        """0 where nothing is left."""
        return max(0.0, self.seconds - self.spent_s)

    @property
    def is_spent(self) -> bool:
        """Whether to stop."""
        return self.left_s <= 0.0

    def part(self, seconds: float) -> "Budget":
        """A budget out of this one, by the same clock, that starts now."""
        return Budget(seconds=min(seconds, self.left_s), clock=self._clock)


class Solver(Protocol):
    """Finds placements for a problem.

    Every solution yielded is feasible and scores more than the one before, or has a lower bound for
    the same placement, or a better overlapping placement beside it; the same problem and seed give
    the same solutions as long as the budget does not end them. Nothing is yielded where nothing
    feasible was found.
    """

    def __call__(
        self, problem: Problem, *, budget: Budget, seed: int = 0, start: Placement | None = None
    ) -> Iterator[Solution]:
        """Yield ever better solutions; `start` is one to begin from, where the solver can."""
        ...
