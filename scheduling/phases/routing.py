"""Which part of the requests goes which way, for given phases: a transportation problem.

    max sum Z[i,j] D[i,j]   with   sum Z <= 1,   sum_j Z[i,j] <= cap[i] / rate,
                                                 sum_i Z[i,j] <= cap[j] / rate

over prefill pipelines `i`, decode pipelines `j`, and pipelines that do both by themselves; lines
bound the bytes of the pairs that share them (ThunderServe, arXiv 2502.09334: the lower level).
Where all fits, Z sums to 1; what is sent nowhere is late. Capacities and D belong to a level of
use: prefill and both are used to one of the table's levels, decode to the least that carries it.

The one idea beside it: the best way first is often optimal; where it attains the bound of
`bound`, no linear program is needed. So a search asks for few of them.
"""

from dataclasses import dataclass, replace

import numpy as np
from scipy.optimize import linprog

from scheduling.phases.bound import Phases, bounds, decode_levels, encoded
from scheduling.phases.table import PhaseTable
from scheduling.phases.wait import Array

CLOSE = 1e-9
SLACK = 1e-7


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
        used: the level it holds for: no pipeline is used to a greater part of its capacity.
    """

    attainment: float
    routes: tuple[Route, ...]
    used: float

    @property
    def served(self) -> float:
        """Part of the requests that goes anywhere."""
        return sum(route.share for route in self.routes)


@dataclass(frozen=True, slots=True)
class Way:
    """What a part of the requests may take.

    Attributes:
        ends: prefill and decode pipeline.
        good: part of its requests that is in time.
        most: part of all requests that its own line carries.
        uses: rooms it takes from, and how much of each a unit of it takes.
    """

    ends: tuple[int, int]
    good: float
    most: float
    uses: tuple[tuple[int, float], ...]


def best_routing(table: PhaseTable, phases: Phases) -> Routing:
    """The best routing over all levels."""
    found = routing_above(table, phases, -1.0)
    assert found is not None  # more than nothing is attained by every routing, the empty one too
    return found


def routing_above(
    table: PhaseTable, phases: Phases, least: float, most: Array | None = None
) -> Routing | None:
    """The best routing over all levels if it attains more than some part, else None.

    Args:
        table: what pipelines can do.
        phases: theirs.
        least: what it must exceed.
        most: what no routing exceeds at each level, if the caller knows, `[U]`.
    """
    most = bounds(table, encoded([phases]))[0] if most is None else most
    best: Routing | None = None
    for level in np.argsort(-most, kind="stable").tolist():
        if float(most[level]) <= least + CLOSE:
            break
        found = route(table, phases, level, float(most[level]))
        if found.attainment > least + CLOSE:
            best, least = found, found.attainment
    return best


def route(table: PhaseTable, phases: Phases, level: int, most: float = float("inf")) -> Routing:
    """The best routing at one level; `most` is what it cannot exceed, if that is known."""
    ways, rooms = _ways(table, phases, level)
    shares = best_first(ways, rooms)
    if ways and _worth(ways, shares) < most - CLOSE:
        shares = solve(ways, rooms)
    return Routing(
        attainment=_worth(ways, shares),
        routes=_routes(ways, shares),
        used=float(table.levels[level]),
    )


def best_first(ways: list[Way], rooms: list[float]) -> list[float]:
    """As much as fits on each way, in their order."""
    free, left, shares = list(rooms), 1.0, []
    for way in ways:
        share = max(0.0, min(left, way.most, *(free[room] / much for room, much in way.uses)))
        for room, much in way.uses:
            free[room] -= share * much
        left -= share
        shares.append(share)
    return shares


def solve(ways: list[Way], rooms: list[float]) -> list[float]:
    """The linear program itself, by HiGHS: the shares of ways that are in time most."""
    rows = np.zeros((len(rooms) + 1, len(ways)))
    rows[-1] = 1.0
    for column, way in enumerate(ways):
        for room, much in way.uses:
            rows[room, column] = much
    ends = np.asarray([*rooms, 1.0])
    scale = np.where(ends > 0, ends, 1.0)
    used = rows.any(axis=1)
    found = linprog(
        [-way.good for way in ways],
        A_ub=(rows / scale[:, None])[used],
        b_ub=(ends / scale)[used],
        bounds=[(0.0, min(1.0, way.most)) for way in ways],
    )
    return [max(0.0, float(share)) for share in found.x]


def spread(table: PhaseTable, phases: Phases, routing: Routing) -> Routing:
    """A routing that attains as much and serves as many, with the fullest pipeline least full.

    What the table says of a level holds for all loads up to it, so that it is indifferent among
    these; a queue is not. One linear program: pipelines get a common part of their room.
    """
    level = int(np.argmin(abs(table.levels - routing.used)))
    ways, rooms = _ways(table, phases, level)
    if not ways:
        return routing
    num, num_own = len(ways), 2 * table.num_pipelines
    rows = np.zeros((len(rooms) + 1, num + 1))
    for column, way in enumerate(ways):
        for room, much in way.uses:
            rows[room, column] = much / (rooms[room] or 1.0)
    ends = np.asarray([*(float(room > 0) for room in rooms), -routing.attainment * (1 - SLACK)])
    rows[:num_own, num], ends[:num_own] = -ends[:num_own], 0.0  # the common part, instead of 1
    rows[-1, :num] = [-way.good for way in ways]
    found = linprog(
        [*([0.0] * num), 1.0],
        A_ub=rows,
        b_ub=ends,
        A_eq=[[*([1.0] * num), 0.0]],
        b_eq=[routing.served],
        bounds=[*((0.0, min(1.0, way.most)) for way in ways), (0.0, 1.0)],
    )
    if not found.success:  # nothing is left to give
        return routing
    return replace(routing, routes=_routes(ways, [max(0.0, float(s)) for s in found.x[:num]]))


def _routes(ways: list[Way], shares: list[float]) -> tuple[Route, ...]:
    return tuple(
        Route(*way.ends, share) for way, share in zip(ways, shares, strict=True) if share > CLOSE
    )


def _worth(ways: list[Way], shares: list[float]) -> float:
    return float(sum(way.good * share for way, share in zip(ways, shares, strict=True)))


def _ways(table: PhaseTable, phases: Phases, level: int) -> tuple[list[Way], list[float]]:
    """All ways that phases leave open, the best first; and the room, in parts of the requests.

    Rooms are those of prefill or both for each pipeline, of decode for each, and of lines.
    """
    num, rate = table.num_pipelines, table.rate
    used = float(table.levels[level])
    after = int(decode_levels(table, encoded([phases]))[0, level])
    rooms = [0.0] * (2 * num) + [used * room / rate for room in table.line_room.tolist()]
    takers = [j for j, phase in enumerate(phases) if phase == "decode"]
    ways: list[Way] = []
    for j in takers:
        rooms[num + j] = float(table.levels[after] * table.decode[j]) / rate
    for i, phase in enumerate(phases):
        if phase == "both":
            rooms[i] = used * float(table.both[i]) / rate
            ways.append(Way((i, i), float(table.good_both[level, i]), 1.0, ((i, 1.0),)))
        elif phase == "prefill":
            rooms[i] = used * float(table.prefill[i]) / rate
            ways += [_pair(table, (i, j), (level, after)) for j in takers]
    ways.sort(key=lambda way: (-way.good, way.ends))
    return ways, rooms


def _pair(table: PhaseTable, ends: tuple[int, int], levels: tuple[int, int]) -> Way:
    num, (giver, taker) = table.num_pipelines, ends
    sent = table.line_bytes[giver, taker].tolist()
    lines = tuple((2 * num + at, num_bytes) for at, num_bytes in enumerate(sent) if num_bytes > 0)
    return Way(
        ends,
        float(table.good_pair[(*levels, *ends)]),
        float(table.levels[levels[0]] * table.pair_room[ends]) / table.rate,
        ((giver, 1.0), (num + taker, 1.0), *lines),
    )
