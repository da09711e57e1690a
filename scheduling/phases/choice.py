"""Which pipelines compute prompts, which answers, and which both, while nothing moves.

The one idea (ThunderServe, arXiv 2502.09334, its lightweight re-scheduling): groups, layers and
weights stay as they are; a tabu search flips phases, and the transportation problem of
`routing` says what each choice is worth: the part of requests in time. A pipeline serves
both phases unless parting them gains something: equal choices go to fewer pipelines apart.

    table = table_of(problem, placement)
    choice = choose_phases(table)
    choice.phases, choice.routes, choice.attainment
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, product

import numpy as np

from scheduling.errors import TooLarge
from scheduling.phases.alike import classes
from scheduling.phases.bound import Phases, bounds, decoded, encoded
from scheduling.phases.relaxed import rounded_phases
from scheduling.phases.routing import (
    CLOSE,
    Route,
    Routing,
    best_routing,
    routing_above,
    spread,
)
from scheduling.phases.table import PhaseTable
from scheduling.phases.wait import Array
from scheduling.placement import PHASES

MAX_EXHAUSTIVE = 10
_EXACT = 6
_LEAST_GAIN = 5e-3
_PATIENCE = 4
_MAX_STEPS = 60
_MAX_LEAPS = 8
_AT_ONCE = 512
_WORST = 1e9


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseChoice:
    """Phases of all pipelines and where requests go.

    Attributes:
        phases: of each pipeline, in the table's order.
        routing: parts of the requests for each pair, and what comes of it.
        colocated: what all pipelines attain if each serves both phases.
        num_scored: choices that were looked at.
        is_proven: whether all were.
    """

    phases: Phases
    routing: Routing
    colocated: float
    num_scored: int
    is_proven: bool

    @property
    def attainment(self) -> float:
        """Part of all requests that is in time."""
        return self.routing.attainment

    @property
    def routes(self) -> tuple[Route, ...]:
        """Where requests go."""
        return self.routing.routes


def choose_phases(
    table: PhaseTable, *, start: Phases | None = None, least_gain: float = _LEAST_GAIN
) -> PhaseChoice:
    """The best phases: of all choices for few pipelines, else by tabu search.

    Args:
        table: what pipelines can do.
        start: phases to begin from besides all `both`; those that serve now.
        least_gain: what each pipeline apart must add to the part of requests in time.

    Raises:
        ValueError: `start` has another number of phases.

    Complexity: 3^n choices up to 6 pipelines, else about 2 n choices for each of some 20 steps.
    """
    if start is not None and len(start) != table.num_pipelines:
        raise ValueError(
            f"phases: expected a start of {table.num_pipelines} phases, got {len(start)}"
        )
    if table.num_pipelines <= _EXACT:
        return choose_of_all(table, least_gain=least_gain)
    return _Search(table, least_gain).run(start)


def choose_of_all(table: PhaseTable, *, least_gain: float = _LEAST_GAIN) -> PhaseChoice:
    """The best of all choices.

    Raises:
        TooLarge: more than `MAX_EXHAUSTIVE` pipelines.
    """
    if table.num_pipelines > MAX_EXHAUSTIVE:
        raise TooLarge(
            f"phases: all choices are looked at for up to {MAX_EXHAUSTIVE} pipelines, got "
            f"{table.num_pipelines}; use choose_phases"
        )
    return _Search(table, least_gain).look_at_all()


def attained(table: PhaseTable, phases: Phases) -> Routing:
    """What given phases attain with the best routing; those that serve now, for comparison.

    Raises:
        ValueError: another number of phases.
    """
    if len(phases) != table.num_pipelines:
        raise ValueError(f"phases: expected {table.num_pipelines} of them, got {len(phases)}")
    return spread(table, phases, best_routing(table, phases))


def colocation(table: PhaseTable) -> Phases:
    """Every pipeline serves both phases."""
    return decoded(np.zeros(table.num_pipelines, np.int64))


class _Search:
    """A walk through choices by single flips, with the best seen so far.

    A choice's value is what it attains, less `least_gain` for each pipeline apart.
    """

    def __init__(self, table: PhaseTable, least_gain: float) -> None:
        self._table, self._least_gain = table, least_gain
        self._classes = classes(table)
        self._values: dict[object, float] = {}
        colocated = colocation(table)
        self.best: tuple[Phases, Routing] = (colocated, best_routing(table, colocated))
        self.colocated = self.best_value = self.best[1].attainment
        self._values[self._key(colocated)] = self.best_value

    def run(self, start: Phases | None) -> PhaseChoice:
        """Walk from all `both`, from likely splits, and from the start."""
        split = self.best_of(self._new(self._splits()), -_WORST)
        table = self._table
        level = int(np.argmin(abs(table.levels - self.best[1].used)))
        relaxed = rounded_phases(table, level)
        for first in dict.fromkeys((self.best[0], split, relaxed, start)):
            if first is not None:
                self._walk(first)
        for _ in range(_MAX_LEAPS):
            before = self.best_value
            leap = self.best_of(self._new(_double_flips(self.best[0])), before)
            if leap is None:
                break
            self._walk(leap)
        return self.choice(is_proven=False)

    def look_at_all(self) -> PhaseChoice:
        """Every choice once, the most promising first, until no other can be better."""
        all_of_them = product(PHASES, repeat=self._table.num_pipelines)
        choices = self._new(all_of_them)
        for begin in range(0, len(choices), _AT_ONCE):
            self.best_of(choices[begin : begin + _AT_ONCE], self.best_value)
        return self.choice(is_proven=True)

    def best_of(self, choices: Sequence[Phases], least: float) -> Phases | None:
        """The choice of the most value, if that is more than some value."""
        if not choices:
            return None
        most, num = bounds(self._table, encoded(choices)), self._table.num_pipelines
        prices = [self._least_gain * _num_apart(phases) / num for phases in choices]
        highest = most.max(axis=1) - prices
        best = None
        for number in np.argsort(-highest, kind="stable").tolist():
            if highest[number] <= least + CLOSE:
                break
            value = self._look(choices[number], least, prices[number], most[number])
            if value is not None:
                best, least = choices[number], value
        return best

    def choice(self, *, is_proven: bool) -> PhaseChoice:
        """The best seen."""
        return PhaseChoice(
            phases=self.best[0],
            routing=spread(self._table, *self.best),
            colocated=self.colocated,
            num_scored=len(self._values),
            is_proven=is_proven,
        )

    def _look(self, phases: Phases, least: float, price: float, most: Array) -> float | None:
        """What a choice is worth, if that is more than some value; remembered."""
        key = self._key(phases)
        value = self._values.get(key)
        if value is None:
            found = routing_above(self._table, phases, least + price, most)
            if found is None:
                return None
            value = self._values[key] = found.attainment - price
            if value > self.best_value + CLOSE:
                self.best, self.best_value = (phases, found), value
        return value if value > least + CLOSE else None

    def _walk(self, now: Phases) -> None:
        self.best_of([now], self.best_value)
        tabu, idle = {self._key(now)}, 0
        for _ in range(_MAX_STEPS):
            before = self.best_value
            around = [o for o in self._new(_flips(now)) if self._key(o) not in tabu]
            step = self.best_of(around, -_WORST)
            if step is None:
                return
            now = step
            tabu.add(self._key(now))
            idle = 0 if self.best_value > before + CLOSE else idle + 1
            if idle >= _PATIENCE:
                return

    def _splits(self) -> Iterator[Phases]:
        """Prefill by those that are best at it, decode by those that are worst, both between."""
        table = self._table
        with np.errstate(divide="ignore", invalid="ignore"):
            prefers = np.nan_to_num(table.prefill / table.decode, posinf=np.inf)
        place = np.argsort(np.argsort(-prefers, kind="stable")).tolist()
        num = table.num_pipelines
        for num_givers, num_takers in product(range(1, num), repeat=2):
            if num_givers + num_takers <= num:
                yield tuple(
                    "prefill" if p < num_givers else "decode" if p >= num - num_takers else "both"
                    for p in place
                )

    def _new(self, choices: Iterable[Phases]) -> list[Phases]:
        """One of each that are alike."""
        return list({self._key(phases): phases for phases in choices}.values())

    def _key(self, phases: Phases) -> object:
        """Pipelines that are alike may change places."""
        return tuple(sorted(zip(self._classes, phases, strict=True)))


def _flips(phases: Phases) -> Iterator[Phases]:
    for number, now in enumerate(phases):
        for phase in PHASES:
            if phase != now:
                yield (*phases[:number], phase, *phases[number + 1 :])


def _double_flips(phases: Phases) -> Iterator[Phases]:
    for one, other in combinations(range(len(phases)), 2):
        for pair in product(PHASES, PHASES):
            if pair[0] != phases[one] and pair[1] != phases[other]:
                flipped = list(phases)
                flipped[one], flipped[other] = pair
                yield tuple(flipped)


def _num_apart(phases: Phases) -> int:
    return sum(phase != "both" for phase in phases)
