"""Keys that tell block tables apart: which blocks, in which order, and how many of their entries.

The one idea: a table up to a place is summed up in a word, so that a cache need not compare tables
to know that it has seen one. Two tables that differ have the same key once in 2^63.
"""

import numpy as np
import numpy.typing as npt

from runtime.simulation.quick_hash import Words, mix

Keys = Words

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


def keys_at(
    tables: npt.NDArray[np.int32], places: npt.NDArray[np.int64], block_tokens: int
) -> Keys:
    """The keys of tables up to the block that holds the entry before each place.

    Shapes:
        tables: [B, W]; places, and what is returned: [B].
    """
    used = -(-places // block_tokens)
    width = int(used.max(initial=0))
    blocks = tables[:, :width].astype(np.uint64) + np.uint64(1)
    blocks[np.arange(width) >= used[:, None]] = 0
    keys = mix(blocks @ _WEIGHTS.upto(width) + places.astype(np.uint64) * _PLACE) | np.uint64(1)
    return np.where(places > 0, keys, NOTHING)
