"""What no routing can exceed, for many choices of phases at once.

The one idea: a transportation problem with one side's capacities dropped is filled best first. Each
side alone gives a bound, and the lesser of the two is near what is attained; as arrays over all
neighbours of a choice it costs about as much as one of them.

Dims: `K` choices, `U` levels, `n` pipelines.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from scheduling.phases.table import PhaseTable
from scheduling.phases.wait import Array
from scheduling.placement import PHASES, Phase

Phases = tuple[Phase, ...]
Codes = npt.NDArray[np.int64]
_BOTH, _PREFILL, _DECODE = range(3)


def encoded(choices: Sequence[Phases]) -> Codes:
    """Phases as their places in `PHASES`, `[K, n]`."""
    return np.asarray([[PHASES.index(phase) for phase in phases] for phases in choices], np.int64)


def decoded(codes: Codes) -> Phases:
    """Places in `PHASES` as phases, `[n]`."""
    return tuple(PHASES[code] for code in codes.tolist())


def decode_levels(table: PhaseTable, codes: Codes) -> Codes:
    """For each level of prefill the least of decode that carries what it gives, `[K, U]`."""
    given = (codes == _PREFILL) @ table.prefill
    needed = np.minimum(table.rate, given[:, None] * table.levels)
    room = ((codes == _DECODE) @ table.decode)[:, None] * table.levels
    carries = room[:, None, :] >= needed[:, :, None] * (1 - 1e-9)
    last = len(table.levels) - 1
    found: Codes = np.where(carries.any(axis=2), carries.argmax(axis=2), last)
    return found


def bounds(table: PhaseTable, codes: Codes) -> Array:
    """The part of requests in time that no routing exceeds, at each level, `[K, U]`."""
    gives, takes = codes == _PREFILL, codes == _DECODE
    after = decode_levels(table, codes)
    pairs = table.good_pair[np.arange(len(table.levels))[None, :], after]  # [K, U, n, n]
    pairs = pairs * (gives[:, None, :, None] & takes[:, None, None, :])
    used = table.levels[None, :, None]
    alone = (codes == _BOTH)[:, None, :]
    own_good, own_room = table.good_both[None] * alone, used * table.both * alone
    giver_room = used * table.prefill * gives[:, None, :]
    taker_room = table.levels[after][:, :, None] * table.decode * takes[:, None, :]
    by_giver = _filled(own_good, own_room, pairs.max(axis=3), giver_room, table.rate)
    by_taker = _filled(own_good, own_room, pairs.max(axis=2), taker_room, table.rate)
    return np.minimum(by_giver, by_taker)


def _filled(own_good: Array, own_room: Array, good: Array, room: Array, rate: float) -> Array:
    """Best first, into a whole of 1, `[K, U]`."""
    goods = np.concatenate([np.broadcast_to(own_good, own_room.shape), good], axis=2)
    rooms = np.concatenate([own_room, room], axis=2) / rate
    order = np.argsort(-goods, axis=2)
    goods = np.take_along_axis(goods, order, axis=2)
    rooms = np.take_along_axis(rooms, order, axis=2)
    before = np.cumsum(rooms, axis=2) - rooms
    taken = np.clip(1.0 - before, 0.0, rooms)
    value: Array = (taken * goods).sum(axis=2)
    return value
