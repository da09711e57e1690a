"""Tabu search over which groups stand together and which phase each pipeline serves.

The one idea (ThunderServe, arXiv 2502.09334): a plan is a partition of the groups and a phase for
each part; moves flip a phase, split or merge pipelines, move or swap groups, take idle ones in or
leave some out, or join devices of a node to TP. What a partition is worth, layers and routing of
requests included, the objective says. The best of a few sampled moves is taken even where it is
worse, plans seen lately are tabu, and partitions that cannot hold the model are never scored.

`flip_phases` only flips: when the load shifts or a node is lost, weights stay where they are.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from scheduling.inventory import Inventory
from scheduling.objective import Objective
from scheduling.placement import PHASES, Group, Phase, Placement
from scheduling.solvers.build import Built, build
from scheduling.solvers.columns import Devices, devices_of
from scheduling.solvers.dp import solve as solve_by_dp
from scheduling.solvers.interface import Budget, Problem, Solution

NAME = "tabu"
_SAMPLED = 24
_REMEMBERED = 200
_PATIENCE = 60
_MAX_STEPS = 2000
_START_PART = 0.25

Parts = tuple[Built, ...]


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
        first = budget.part(budget.left_s * _START_PART)
        for found in solve_by_dp(problem, budget=first, seed=seed):
            start = found.placement
            yield replace(found, solver=NAME)
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
        self._inventory = Inventory(self._objective)
        self._groups = self._inventory.groups()
        self._rng = np.random.default_rng(seed)
        self._flips_only = flips_only
        self._fixed: dict[tuple[Group, ...], tuple[int, ...]] = {}
        phases = problem.limits.disaggregate or flips_only
        self._phases: tuple[Phase, ...] = PHASES if phases else ("both",)
        moves: list[Callable[[Parts], Parts | None]] = [self._flip] if phases else []
        if not flips_only:
            moves += [self._move, self._swap, self._take_in, self._leave_out]
            moves += [self._split, self._merge]
            if problem.limits.max_tp > 1:
                moves.append(self._regroup)
        self._moves = moves

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
        tabu: deque[object] = deque([_key(now.parts)], maxlen=_REMEMBERED)
        idle = 0
        for _ in range(_MAX_STEPS):
            if budget.is_spent or not self._moves:
                return
            found = self._best_neighbour(now, set(tabu), best.score, budget)
            if found is None or idle >= _PATIENCE:
                now, idle = best, 0
                if found is None:
                    continue
            else:
                now = found
            tabu.append(_key(now.parts))
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
            parts = self._moves[int(self._rng.integers(len(self._moves)))](now.parts)
            if parts is None or _key(parts) in tried:
                continue
            tried.add(_key(parts))
            seen = self._seen(parts)
            if seen is None or (_key(parts) in tabu and seen.score <= best):
                continue
            if found is None or seen.score > found.score:
                found = seen
            if budget.is_spent:
                break
        return found

    # --- moves: other parts, or None where the draw makes no sense

    def _flip(self, parts: Parts) -> Parts | None:
        number = self._draw(parts)
        old = parts[number]
        phases = [phase for phase in self._phases if phase != old.phase]
        phase = phases[self._draw(phases)]
        if self._flips_only:
            return _with(parts, {number: replace(old, phase=phase)})
        return self._rebuilt(parts, {number: (old.groups, phase)})

    def _move(self, parts: Parts) -> Parts | None:
        if len(parts) < 2:
            return None
        one, other = self._two(parts)
        groups = list(parts[one].groups)
        moved = groups.pop(self._draw(groups))
        return self._rebuilt(
            parts,
            {
                one: (groups, parts[one].phase),
                other: ([*parts[other].groups, moved], parts[other].phase),
            },
        )

    def _swap(self, parts: Parts) -> Parts | None:
        if len(parts) < 2:
            return None
        one, other = self._two(parts)
        first, second = list(parts[one].groups), list(parts[other].groups)
        a, b = self._draw(first), self._draw(second)
        if self._class(first[a]) == self._class(second[b]):
            return None
        first[a], second[b] = second[b], first[a]
        return self._rebuilt(
            parts, {one: (first, parts[one].phase), other: (second, parts[other].phase)}
        )

    def _take_in(self, parts: Parts) -> Parts | None:
        """An idle group joins a pipeline, or idle groups become one by themselves."""
        idle = self._idle(parts)
        if not idle:
            return None
        number = int(self._rng.integers(len(parts) + 1))
        if number == len(parts):
            phase = self._phases[self._draw(self._phases)]
            built = build(self._inventory, _disjoint(idle), phase)
            return None if built is None else (*parts, built)
        groups = [*parts[number].groups, idle[self._draw(idle)]]
        return self._rebuilt(parts, {number: (groups, parts[number].phase)})

    def _leave_out(self, parts: Parts) -> Parts | None:
        number = self._draw(parts)
        groups = list(parts[number].groups)
        groups.pop(self._draw(groups))
        return self._rebuilt(parts, {number: (groups, parts[number].phase)})

    def _split(self, parts: Parts) -> Parts | None:
        number = self._draw(parts)
        old = parts[number]
        if len(old.groups) < 2:
            return None
        side = self._rng.random(len(old.groups)) < 0.5
        halves = [[g for g, s in zip(old.groups, side, strict=True) if s == h] for h in (0, 1)]
        built = [build(self._inventory, half, old.phase) if half else None for half in halves]
        if built[0] is None or built[1] is None:
            return None
        return (*_with(parts, {number: built[0]}), built[1])

    def _merge(self, parts: Parts) -> Parts | None:
        if len(parts) < 2:
            return None
        one, other = self._two(parts)
        merged = build(
            self._inventory, [*parts[one].groups, *parts[other].groups], parts[one].phase
        )
        if merged is None:
            return None
        return tuple(p for i, p in enumerate(_with(parts, {one: merged})) if i != other)

    def _regroup(self, parts: Parts) -> Parts | None:
        """A group's devices and others' of its pipeline in the node, in groups of another size."""
        number = self._draw(parts)
        old = parts[number]
        drawn = old.groups[self._draw(old.groups)]
        kind = self._class(drawn)
        here = [g for g in old.groups if g.node == drawn.node and self._class(g) == kind]
        devices = sorted(index for group in here for index in group.devices)
        degrees = list(self._inventory.degrees(len(devices)))
        tp = degrees[self._draw(degrees)]
        if len(devices) % tp:
            return None
        new = [Group(drawn.node, tuple(devices[i : i + tp])) for i in range(0, len(devices), tp)]
        groups = [group for group in old.groups if group not in here] + new
        return self._rebuilt(parts, {number: (groups, old.phase)})

    # --- what moves need

    def _rebuilt(
        self, parts: Parts, changed: dict[int, tuple[Sequence[Group], Phase]]
    ) -> Parts | None:
        """Other groups for some parts; a part left empty is gone; None if one cannot be."""
        new: dict[int, Built | None] = {}
        for number, (groups, phase) in changed.items():
            new[number] = build(self._inventory, groups, phase) if groups else None
            if groups and new[number] is None:
                return None
        kept = [new.get(number, part) for number, part in enumerate(parts)]
        return tuple(part for part in kept if part is not None) or None

    def _idle(self, parts: Parts) -> list[Group]:
        used: Devices = frozenset(d for part in parts for d in devices_of(part.groups))
        return [group for group in self._groups if not used & devices_of((group,))]

    def _class(self, group: Group) -> object:
        return self._inventory.class_of(group), len(group.devices)

    def _two(self, parts: Parts) -> tuple[int, int]:
        one, other = self._rng.choice(len(parts), size=2, replace=False)
        return int(one), int(other)

    def _draw(self, things: Sequence[object]) -> int:
        return int(self._rng.integers(len(things)))

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


def _with(parts: Parts, changed: dict[int, Built]) -> Parts:
    return tuple(changed.get(number, part) for number, part in enumerate(parts))


def _disjoint(groups: Sequence[Group]) -> list[Group]:
    """As many of the groups as do not overlap, the widest first."""
    chosen: list[Group] = []
    used: set[tuple[str, int]] = set()
    for group in sorted(groups, key=lambda g: (-len(g.devices), g)):
        if not used & devices_of((group,)):
            chosen.append(group)
            used |= devices_of((group,))
    return chosen


def _key(parts: Parts) -> object:
    return frozenset((part.phase, frozenset(part.groups)) for part in parts)
