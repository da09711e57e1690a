"""Keys that tell block tables apart: which blocks, in which order, and how many of their entries.

The one idea: a table up to a place is summed up in a word, so that a cache need not compare tables
to know that it has seen one. Two tables that differ have the same key once in 2^63.
"""

import numpy as np
import numpy.typing as npt

from models.word_hash import Words, mix

Keys = Words
Ints = npt.NDArray[np.int64]

BROKEN = np.uint64(0)
"""The key of what is not to be found again."""
NOTHING = np.uint64(2)
"""The key of every table at its beginning; all others are odd."""
_PLACE = np.uint64(0xD6E8FEB86659FD93)


class _Weights:
    """A word for every place in a table, grown as they are needed."""

    def __init__(self) -> None:
        self._known = mix(np.arange(1, 513, dtype=np.uint64))

    def upto(self, count: int) -> Words:
        if count > len(self._known):
            self._known = mix(np.arange(1, 2 * count + 1, dtype=np.uint64))
        return self._known[:count]


_WEIGHTS = _Weights()


def table_sums(tables: npt.NDArray[np.int32], used: Ints) -> Words:
    """Of each table, the sum over the blocks that are used, each by its place: [B].

    Shapes:
        tables: [B, W]; used, how many of each, at most W: [B].
    """
    width = int(used.max(initial=0))
    blocks = np.where(np.arange(width) < used[:, None], tables[:, :width] + 1, 0)
    return np.asarray(blocks.astype(np.uint64) @ _WEIGHTS.upto(width), np.uint64)


def without(sums: Words, rows: Ints, index: Ints, blocks: Ints) -> Words:
    """The sums as they were before some blocks, each at its place in the table of its row: [B]."""
    if not len(rows):
        return sums
    before = sums.copy()
    weights = _WEIGHTS.upto(int(index.max()) + 1)[index]
    np.subtract.at(before, rows, (blocks + 1).astype(np.uint64) * weights)
    return before


def keys_at(sums: Words, places: Ints) -> Keys:
    """The keys of tables that are used up to these places, from their sums: [B]."""
    keys = mix(sums + places.astype(np.uint64) * _PLACE)
    keys |= np.uint64(1)
    keys[places == 0] = NOTHING
    return keys
