"""Arithmetic of 64-bit words, of which emulated shards make tokens and KV entries.

The one idea: everything is modulo 2^64 and every factor is odd, hence invertible, so that no word
that goes into a later one ever loses its weight there. Whole rows at a time (`mix`, `Powers`), and
over plain integers (`mix_int`), so that what is expected is computed by other means.

Source: splitmix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, 2014).
"""

import numpy as np
import numpy.typing as npt

Words = npt.NDArray[np.uint64]

WORD_BYTES = 8
MASK = (1 << 64) - 1
M = 0x9E3779B97F4A7C15
"""What an earlier sum is multiplied by: `sum[i + 1] = M * sum[i] + entry[i]`."""
R = M + 2
"""The same by what the entry is made of, `entry[i] = z[i] + 2 * sum[i]`."""
LAYER_SALT = 0xD1B54A32D192ED03
DRAW_SALT = 0x8CB92BA72F3D8DD7

_FACTORS = [np.array(n, np.uint64) for n in (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)]
_SHIFTS = [np.array(n, np.uint64) for n in (30, 27, 31)]


class Powers:
    """The powers of one odd number, grown as they are needed."""

    def __init__(self, base: int) -> None:
        self._base = np.uint64(base & MASK)
        self._known = np.ones(1, np.uint64)

    def upto(self, count: int) -> Words:
        """Powers 0 to `count - 1`."""
        if count > len(self._known):
            factors = np.full(2 * count, self._base)
            factors[0] = 1
            self._known = np.cumprod(factors, dtype=np.uint64)
        return self._known[:count]


POWERS_OF_M = Powers(M)
POWERS_OF_R = Powers(R)
POWERS_OF_R_INVERSE = Powers(pow(R, -1, 1 << 64))


def mix(words: Words) -> Words:
    """A bijection of 64-bit words without visible structure (splitmix64's finalizer).

    Example:
        >>> int(mix(np.array([1], np.uint64))[0]) == mix_int(1)
        True
    """
    words = words ^ (words >> _SHIFTS[0])
    words *= _FACTORS[0]
    words ^= words >> _SHIFTS[1]
    words *= _FACTORS[1]
    words ^= words >> _SHIFTS[2]
    return words


def mix_int(word: int) -> int:
    """`mix` of one plain integer."""
    word &= MASK
    word = (word ^ (word >> 30)) * 0xBF58476D1CE4E5B9 & MASK
    word = (word ^ (word >> 27)) * 0x94D049BB133111EB & MASK
    return word ^ (word >> 31)
