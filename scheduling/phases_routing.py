"""Which part of the requests goes which way, for given phases: a transportation problem.

    max sum Z[i,j] D[i,j]    sum Z <= 1    sum_j Z[i,j] <= cap[i] / rate    sum_i Z[i,j] <= cap[j] / rate

over prefill pipelines `i`, decode pipelines `j`, and pipelines that do both by themselves; lines
that several pairs share bound their bytes (ThunderServe, arXiv 2502.09334: the lower level). What
is not sent anywhere is late: where all fits, Z sums to 1.

The one idea beside it: the best way first is often optimal, and dropping one side's capacities
gives a bound; where the two meet no linear program is needed. So a search asks for few of them.
"""

from dataclasses import dataclass, field

import numpy as np
from scipy.optimize import linprog

from scheduling.phases_table import Level, PhaseTable
from scheduling.phases_wait import Array
from scheduling.placement import Phase

Phases = tuple[Phase, ...]
_CLOSE = 1e-9


@dataclass(frozen=True, slots=True)
class Route:
    """A part of the requests that goes from a prefill to a decode pipeline, or to one for both."""

    prefill: int
    decode: int
    share: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Routing:
    """A solved transportation problem.

    Attributes:
        attainment: part of all requests that is in time.
        routes: where requests go.
        used: the level that it holds for: no pipeline is used to a greater part of its capacity.
    """

    attainment: float
    routes: tuple[Route, ...]
    used: float

    @property
    def served(self) -> float:
        """Part of the requests that goes anywhere."""
        return sum(route.share for route in self.routes)


@dataclass(frozen=True, slots=True)
class _Ways:
    """All ways that phases leave open, the best first.

    Attributes:
        ends: prefill and decode pipeline of each, `[W]` pairs.
        good: part of the requests in time on each, `[W]`.
        rooms: shares that pipelines and lines have, `[C]`: prefill or both, decode, lines.
        uses: for each way the rooms it takes from, and how much a unit of it takes.
    """

    ends: list[tuple[int, int]]
    good: list[float]
    rooms: list[float]
    uses: list[list[tuple[int, float]]] = field(default_factory=list)


def best_routing(table: PhaseTable, phases: Phases) -> Routing:
    """The best routing over all levels."""
    return _best(table, phases, -1.0)


def routing_above(table: PhaseTable, phases: Phases, least: float) -> Routing | None:
    """The best routing if it attains more than some part; None, sooner, where it does not."""
    if max(bound(level, table, phases) for level in table.levels) <= least + _CLOSE:
        return None
    found = _best(table, phases, least)
    return found if found.attainment > least + _CLOSE else None


def _best(table: PhaseTable, phases: Phases, least: float) -> Routing:
    best = Routing(attainment=0.0, routes=(), used=table.levels[0].used)
    bounds = [(bound(level, table, phases), level) for level in table.levels]
    for most, level in sorted(bounds, key=lambda pair: -pair[0]):
        if most <= max(best.attainment, least) + _CLOSE:
            break
        found = route(level, table, phases, most)
        if found.attainment > best.attainment + _CLOSE:
            best = found
    return best


def route(
    level: Level, table: PhaseTable, phases: Phases, most: float | None = None
) -> Routing:
    """The best routing at one level; `most` is what it cannot exceed, if that is known."""
    ways = _ways(level, table, phases)
    shares = _best_first(ways)
    value = sum(share * good for share, good in zip(shares, ways.good, strict=True))
    most = bound(level, table, phases) if most is None else most
    if ways.ends and value < most - _CLOSE:
        shares = solve(ways.good, ways.rooms, ways.uses)
        value = sum(share * good for share, good in zip(shares, ways.good, strict=True))
    routes = tuple(
        Route(*ends, share)
        for ends, share in zip(ways.ends, shares, strict=True)
        if share > _CLOSE
    )
    return Routing(attainment=float(value), routes=routes, used=level.used)


def bound(level: Level, table: PhaseTable, phases: Phases) -> float:
    """No routing at a level attains more: each side by itself with the other's best."""
    givers = [i for i, phase in enumerate(phases) if phase == "prefill"]
    takers = [i for i, phase in enumerate(phases) if phase == "decode"]
    alone = [
        (float(level.good_both[i]), float(level.both[i]) / table.rate)
        for i, phase in enumerate(phases)
        if phase == "both"
    ]
    if not givers or not takers:
        return _filled(alone, [], 0.0)
    pairs = level.good_pair[np.ix_(givers, takers)]
    give, take = level.prefill[givers] / table.rate, level.decode[takers] / table.rate
    by_giver = list(zip(pairs.max(axis=1).tolist(), give.tolist(), strict=True))
    by_taker = list(zip(pairs.max(axis=0).tolist(), take.tolist(), strict=True))
    return min(
        _filled(alone, by_giver, float(take.sum())), _filled(alone, by_taker, float(give.sum()))
    )


def _filled(
    alone: list[tuple[float, float]], paired: list[tuple[float, float]], pair_room: float
) -> float:
    """Best first, into a whole of 1, of which pairs may take no more than their other side has."""
    left, value = 1.0, 0.0
    items = [(good, room, False) for good, room in alone]
    items += [(good, room, True) for good, room in paired]
    for good, room, is_pair in sorted(items, reverse=True):
        taken = min(left, room, pair_room) if is_pair else min(left, room)
        pair_room -= taken * is_pair
        left -= taken
        value += taken * good
        if left <= 0.0:
            break
    return value


def _ways(level: Level, table: PhaseTable, phases: Phases) -> _Ways:
    num, num_lines = len(phases), len(table.lines)
    rooms = [0.0] * (2 * num + num_lines)
    found: list[tuple[float, tuple[int, int], list[tuple[int, float]]]] = []
    takers = [j for j, phase in enumerate(phases) if phase == "decode"]
    for line in range(num_lines):
        rooms[2 * num + line] = float(level.line[line]) / table.rate
    for i, phase in enumerate(phases):
        own = {"both": level.both, "prefill": level.prefill, "decode": level.decode}[phase]
        rooms[i + num * (phase == "decode")] = float(own[i]) / table.rate
        if phase == "both":
            found.append((float(level.good_both[i]), (i, i), [(i, 1.0)]))
        if phase == "prefill":
            for j in takers:
                sent = table.pair_bytes[i, j]
                uses = [(i, 1.0), (num + j, 1.0)]
                uses += [(2 * num + n, float(b)) for n, b in enumerate(sent.tolist()) if b > 0]
                found.append((float(level.good_pair[i, j]), (i, j), uses))
    found.sort(key=lambda way: (-way[0], way[1]))
    return _Ways(
        ends=[way[1] for way in found],
        good=[way[0] for way in found],
        rooms=rooms,
        uses=[way[2] for way in found],
    )


def _best_first(ways: _Ways) -> list[float]:
    """As much as fits on each way, the best first."""
    rooms, left, shares = list(ways.rooms), 1.0, []
    for uses in ways.uses:
        share = min([left, *(rooms[room] / much for room, much in uses)])
        share = max(0.0, share)
        for room, much in uses:
            rooms[room] -= share * much
        left -= share
        shares.append(share)
    return shares


def solve(good: list[float], rooms: list[float], uses: list[list[tuple[int, float]]]) -> list[float]:
    """The linear program itself, by HiGHS: shares of the ways that are in time most."""
    rows = np.zeros((len(rooms) + 1, len(good)))
    rows[-1] = 1.0
    for way, takes in enumerate(uses):
        for room, much in takes:
            rows[room, way] = much
    ends: Array = np.asarray([*rooms, 1.0])
    scale = np.where(ends > 0, ends, 1.0)
    needed = rows.any(axis=1)
    found = linprog(
        -np.asarray(good),
        A_ub=(rows / scale[:, None])[needed],
        b_ub=(ends / scale)[needed],
        bounds=(0, 1),
    )
    return [max(0.0, float(share)) for share in found.x]
