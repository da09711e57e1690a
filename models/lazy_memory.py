"""Memory that is reserved as a whole and taken a small page at a time, when it is first written.

What a cache may hold in the end is known when it is made, and mostly never used. NumPy asks for
huge pages, each of which takes milliseconds to be made at its first write: where entries lie far
apart, a step would stall for all that it is the first to touch.
"""

import mmap

import numpy as np
import numpy.typing as npt


def lazy_zeros(num_bytes: int) -> npt.NDArray[np.uint8]:
    """Zeros, aligned to a page.

    Raises:
        OSError, ValueError, OverflowError: the host has not the address space.
    """
    if not num_bytes:
        return np.zeros(0, np.uint8)
    pages = mmap.mmap(-1, num_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_NOHUGEPAGE"):
        pages.madvise(mmap.MADV_NOHUGEPAGE)
    return np.frombuffer(pages, np.uint8)
