"""What a walk through partitions may do next: moves of groups and flips of phases.

The one idea: a move draws a few of its parts by chance and builds them anew; it gives None where
the draw makes no sense or a part could not hold the model. It never knows a plan's score.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from scheduling.inventory import Inventory
from scheduling.objective import Objective
from scheduling.placement import PHASES, Group, Phase
from scheduling.solvers.build import Built, build
from scheduling.solvers.columns import Devices, devices_of

_SOME_PART = 0.5
"""How often idle groups become a pipeline in part and not all together."""

Parts = tuple[Built, ...]


class Moves:
    """Draws moves of one problem's partitions, from a seed."""

    def __init__(self, objective: Objective, seed: int, *, flips_only: bool) -> None:
        limits = objective.problem.limits
        self._inventory = Inventory(objective)
        self._groups = tuple(filter(self._inventory.holds_a_layer, self._inventory.groups()))
        self._rng = np.random.default_rng(seed)
        self._flips_only = flips_only
        phases = limits.disaggregate or flips_only
        self._phases: tuple[Phase, ...] = PHASES if phases else ("both",)
        moves: list[Callable[[Parts], Parts | None]] = [self._flip] if phases else []
        if not flips_only:
            moves += [self._move, self._swap, self._take_in, self._leave_out]
            moves += [self._split, self._merge]
            if limits.max_tp > 1:
                moves.append(self._regroup)
        self._moves = moves

    def draw(self, parts: Parts) -> Parts | None:
        """Other parts by one move, or None where it came to nothing."""
        return self._moves[self._draw(self._moves)](parts)

    # --- moves

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
            together = _disjoint(idle)
            if self._rng.random() < _SOME_PART:
                together = [group for group in together if self._rng.random() < 0.5]
            built = build(self._inventory, together, phase) if together else None
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


def key(parts: Parts) -> object:
    """What tells two partitions apart."""
    return frozenset((part.phase, frozenset(part.groups)) for part in parts)
