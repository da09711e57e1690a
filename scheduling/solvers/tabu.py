"""Tabu search over which groups stand together and which phase each pipeline serves.

The one idea (ThunderServe, arXiv 2502.09334): a plan is a partition of the groups and a phase for
each part; moves flip a phase, split or merge pipelines, move or swap groups, take idle ones in or
leave some out, or join devices of a node to TP. What a partition is worth, layers and routing of
requests included, the objective says. The best of a few sampled moves is taken even where it is
worse, plans seen lately are tabu, and partitions that cannot hold the model are never scored.

`flip_phases` only flips: when the load shifts or a node is lost, weights stay where they are.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace

from scheduling.objective import Objective
from scheduling.placement import Group, Placement
from scheduling.solvers.build import Built
from scheduling.solvers.dp import solve as solve_by_dp
from scheduling.solvers.interface import Budget, Problem, Solution
from scheduling.solvers.tabu_moves import Moves, Parts, key

NAME = "tabu"
_SAMPLED = 24
_REMEMBERED = 200
_PATIENCE = 60
_MAX_STEPS = 2000
_START_PART = 0.25


def solve(
    problem: Problem, *, budget: Budget, seed: int = 0, start: Placement | None = None
) -> Iterator[Solution]:
    """Yield better plans, from a start (what `dp` finds in a part of the budget, if none is given).

    Args:
        problem: any size.
        budget: looked at at each step.
        seed: of which moves are tried.
        start: where to begin.
    """
    if start is None:
        # where the part is too short for a plan that the money buys, all of the budget is its
        for part in (_START_PART, 1.0):
            first = budget.part(budget.left_s * part)
            for found in solve_by_dp(problem, budget=first, seed=seed):
                start = found.placement
                yield replace(found, solver=NAME)
            if start is not None:
                break
    if start is None:
        return
    search = _Search(problem, seed, flips_only=False)
    yield from search.run(start, budget)


def flip_phases(
    problem: Problem, start: Placement, *, budget: Budget, seed: int = 0
) -> Iterator[Solution]:
    """Yield better plans that differ from a start in the phases of its pipelines alone.

    Layers and groups stay as they are, so that no weight moves (the lightweight re-scheduling).
    """
    yield from _Search(problem, seed, flips_only=True).run(start, budget)


@dataclass(frozen=True, slots=True)
class _Seen:
    """A plan with its score."""

    parts: Parts
    score: float


class _Search:
    """One walk through partitions."""

    def __init__(self, problem: Problem, seed: int, *, flips_only: bool) -> None:
        self._objective = Objective.of(problem)
        self._flips_only = flips_only
        self._moves = Moves(self._objective, seed, flips_only=flips_only)
        self._fixed: dict[tuple[Group, ...], tuple[int, ...]] = {}

    def run(self, start: Placement, budget: Budget) -> Iterator[Solution]:
        """Walk from a start; yield what is better than all before."""
        if self._flips_only:
            self._fixed = {
                p.groups: tuple(stage.end - stage.start for stage in p.stages)
                for p in start.pipelines
            }
        now = self._seen(self._parts_of(start))
        if now is None:
            return
        best = now
        tabu: deque[object] = deque([key(now.parts)], maxlen=_REMEMBERED)
        idle = 0
        for _ in range(_MAX_STEPS):
            if budget.is_spent:
                return
            found = self._best_neighbour(now, set(tabu), best.score, budget)
            if found is None or idle >= _PATIENCE:
                now, idle = best, 0
                if found is None:
                    continue
            else:
                now = found
            tabu.append(key(now.parts))
            idle += 1
            if now.score > best.score * (1 + 1e-9):
                best, idle = now, 0
                yield self._solution(best)

    def _best_neighbour(
        self, now: _Seen, tabu: set[object], best: float, budget: Budget
    ) -> _Seen | None:
        found: _Seen | None = None
        tried: set[object] = set()
        for _ in range(_SAMPLED):
            parts = self._moves.draw(now.parts)
            if parts is None or key(parts) in tried:
                continue
            tried.add(key(parts))
            seen = self._seen(parts)
            if seen is None or (key(parts) in tabu and seen.score <= best):
                continue
            if found is None or seen.score > found.score:
                found = seen
            if budget.is_spent:
                break
        return found

    # --- scores

    def _parts_of(self, placement: Placement) -> Parts:
        value = self._objective.value
        return tuple(
            Built(p.groups, p.phase, value(p.groups, p.phase)) for p in placement.pipelines
        )

    def _seen(self, parts: Parts) -> _Seen | None:
        placement = self._placement(parts)
        if placement is None or not self._objective.is_affordable(placement):
            return None
        return _Seen(parts, self._objective.score(placement))

    def _placement(self, parts: Parts) -> Placement | None:
        """The parts with their best layers, or the start's layers where they must stay."""
        pipelines = []
        for part in parts:
            best = self._objective.best_pipeline(part.groups, part.phase)
            if part.groups in self._fixed:
                best = self._objective.pipeline_with(
                    part.groups, self._fixed[part.groups], part.phase
                )
            if best is None:
                return None
            pipelines.append(best)
        return Placement(tuple(pipelines))

    def _solution(self, seen: _Seen) -> Solution:
        placement = self._placement(seen.parts)
        assert placement is not None  # it was scored
        return Solution(placement=placement, score=seen.score, solver=NAME)
