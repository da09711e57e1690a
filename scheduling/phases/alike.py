"""Which pipelines of a table are alike, so that a choice need not tell them apart."""

import numpy as np

from scheduling.phases.table import PhaseTable
from scheduling.phases.wait import Array


def classes(table: PhaseTable) -> tuple[int, ...]:
    """A class for each pipeline: those of one can change places in all that the table says.

    Complexity: O(n * classes * n * U^2).
    """
    own, pairs = _own(table), _pairs(table)
    found: list[int] = []
    for number in range(table.num_pipelines):
        firsts = [first for first in dict.fromkeys(found) if _can_swap(own, pairs, first, number)]
        found.append(firsts[0] if firsts else number)
    return tuple(found)


def _own(table: PhaseTable) -> Array:
    """What each pipeline has by itself, `[n, .]`."""
    return np.vstack([table.both, table.prefill, table.decode, table.good_both]).T


def _pairs(table: PhaseTable) -> Array:
    """What each pair has, `[n, n, .]`."""
    good = np.moveaxis(table.good_pair, (0, 1), (2, 3))
    num = table.num_pipelines
    room = np.minimum(table.pair_room, 1e30)[:, :, None]
    return np.concatenate([good.reshape(num, num, -1), room, table.line_bytes], axis=2)


def _can_swap(own: Array, pairs: Array, one: int, other: int) -> bool:
    if not np.allclose(own[one], own[other], rtol=1e-9, atol=1e-12):
        return False
    order = np.arange(len(own))
    order[[one, other]] = other, one
    rows = (pairs[one][order], pairs[other]), (pairs[:, one][order], pairs[:, other])
    return all(np.allclose(a, b, rtol=1e-9, atol=1e-12) for a, b in rows)
