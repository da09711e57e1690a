"""Which pipelines compute prompts, which answers, and which both, while nothing moves.

The one idea (ThunderServe, arXiv 2502.09334, its lightweight re-scheduling): groups, layers and
weights stay as they are; a tabu search flips phases, and the transportation problem of
`phases_routing` says what each choice is worth: the part of requests in time. A pipeline serves
both phases unless parting them gains something: equal choices go to fewer pipelines apart.

    table = table_of(problem, placement)
    choice = choose_phases(table)
    choice.phases, choice.routes, choice.attainment
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

from scheduling.errors import TooLarge
from scheduling.phases_routing import Phases, Route, Routing, best_routing, routing_above
from scheduling.phases_table import PhaseTable
from scheduling.phases_wait import Array
from scheduling.placement import PHASES, Phase

MAX_EXHAUSTIVE = 10
_EXACT = 5
_LEAST_GAIN = 1e-3
_PATIENCE = 6
_MAX_STEPS = 60


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

    Complexity: 3^n choices up to 5 pipelines, else about 2 n choices for each of some 20 steps.
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
    search = _Search(table, least_gain)
    for phases in sorted(product(PHASES, repeat=table.num_pipelines), key=_num_apart):
        search.look(phases, search.best_value)
    return search.choice(is_proven=True)


def attained(table: PhaseTable, phases: Phases) -> Routing:
    """What given phases attain with the best routing; those that serve now, for comparison.

    Raises:
        ValueError: another number of phases.
    """
    if len(phases) != table.num_pipelines:
        raise ValueError(f"phases: expected {table.num_pipelines} of them, got {len(phases)}")
    return best_routing(table, phases)


class _Search:
    """A walk through choices by single flips, with the best seen so far."""

    def __init__(self, table: PhaseTable, least_gain: float) -> None:
        self._table, self._least_gain = table, least_gain
        self._classes = _alike(table)
        self._values: dict[object, float] = {}
        colocated: Phases = ("both",) * table.num_pipelines
        self.best: tuple[Phases, Routing] = (colocated, best_routing(table, colocated))
        self.colocated = self.best_value = self.best[1].attainment
        self._values[self._key(colocated)] = self.best_value

    def run(self, start: Phases | None) -> PhaseChoice:
        """Walk from the start, from all `both`, and from a split by what each does best."""
        for first in dict.fromkeys((*self._starts(), *((start,) if start else ()))):
            self._walk(first)
        return self.choice(is_proven=False)

    def look(self, phases: Phases, least: float) -> float | None:
        """What a choice is worth if that is more than some value; remembered."""
        key = self._key(phases)
        known = self._values.get(key)
        if known is not None:
            return known if known > least else None
        price = self._least_gain * _num_apart(phases)
        found = routing_above(self._table, phases, least + price)
        if found is None:
            return None
        value = self._values[key] = found.attainment - price
        if value > self.best_value + 1e-9:
            self.best, self.best_value = (phases, found), value
        return value

    def choice(self, *, is_proven: bool) -> PhaseChoice:
        """The best seen."""
        return PhaseChoice(
            phases=self.best[0],
            routing=self.best[1],
            colocated=self.colocated,
            num_scored=len(self._values),
            is_proven=is_proven,
        )

    def _walk(self, now: Phases) -> None:
        self.look(now, -1.0)
        tabu, idle = {self._key(now)}, 0
        for _ in range(_MAX_STEPS):
            before = self.best_value
            step = self._best_neighbour(now, tabu)
            if step is None:
                return
            now = step
            tabu.add(self._key(now))
            idle = 0 if self.best_value > before + 1e-9 else idle + 1
            if idle >= _PATIENCE:
                return

    def _best_neighbour(self, now: Phases, tabu: set[object]) -> Phases | None:
        best, least, tried = None, -1.0, set(tabu)
        for other in _flips(now):
            key = self._key(other)
            if key in tried:
                continue
            tried.add(key)
            value = self.look(other, least)
            if value is not None:
                best, least = other, value
        return best

    def _starts(self) -> Iterator[Phases]:
        """All `both`; and prefill by those that are best at it, as many as both sides balance."""
        table = self._table
        yield ("both",) * table.num_pipelines
        level = table.levels[-1]
        prefers = [_ratio(p, d) for p, d in zip(level.prefill, level.decode, strict=True)]
        order = sorted(range(table.num_pipelines), key=lambda i: -prefers[i])
        splits = [
            (min(level.prefill[order[:n]].sum(), level.decode[order[n:]].sum()), n)
            for n in range(1, table.num_pipelines)
        ]
        givers = set(order[: max(splits)[1]]) if splits else set()
        phases: list[Phase] = [
            "prefill" if i in givers else "decode" for i in range(table.num_pipelines)
        ]
        yield tuple(phases)

    def _key(self, phases: Phases) -> object:
        """Pipelines that are alike may change places."""
        return tuple(sorted(zip(self._classes, phases, strict=True)))


def _flips(phases: Phases) -> Iterator[Phases]:
    for number, now in enumerate(phases):
        for phase in PHASES:
            if phase != now:
                yield (*phases[:number], phase, *phases[number + 1 :])


def _num_apart(phases: Phases) -> int:
    return sum(phase != "both" for phase in phases)


def _ratio(one: float, other: float) -> float:
    return one / other if other > 0 else float("inf") if one > 0 else 0.0


def _alike(table: PhaseTable) -> tuple[int, ...]:
    """A class for each pipeline; those of a class can change places in all that the table says."""
    classes: list[int] = []
    for i in range(table.num_pipelines):
        same = next((j for j in range(i) if _can_swap(table, i, j)), i)
        classes.append(classes[same] if same < i else i)
    return tuple(classes)


def _can_swap(table: PhaseTable, one: int, other: int) -> bool:
    """Whether all is as before with two pipelines in each other's place."""
    order = list(range(table.num_pipelines))
    order[one], order[other] = other, one

    def is_same(values: Array) -> bool:
        swapped = values[order] if values.ndim == 1 else values[order][:, order]
        return bool((abs(swapped - values) <= 1e-9 * (1.0 + abs(values))).all())

    return is_same(table.pair_bytes) and all(
        is_same(values)
        for level in table.levels
        for values in (level.both, level.prefill, level.decode, level.good_both, level.good_pair)
    )
