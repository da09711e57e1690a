import mmap
import resource
from pathlib import Path

import pytest

from models.lazy_memory import lazy_zeros

PAGE = mmap.PAGESIZE


def test_it_is_zero_writable_and_aligned() -> None:
    memory = lazy_zeros(3 * PAGE + 5)
    assert memory.nbytes == 3 * PAGE + 5
    assert not memory.any()
    assert memory.ctypes.data % PAGE == 0
    memory[-1] = 7
    assert memory[-1] == 7


def test_none_is_asked_for_and_none_is_given() -> None:
    assert lazy_zeros(0).nbytes == 0


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * PAGE


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux' /proc")
def test_memory_is_taken_for_what_is_written_and_not_for_what_lies_between() -> None:
    memory = lazy_zeros(1 << 30)
    before = resident_bytes()
    memory[:: 1 << 22] = 1
    assert resident_bytes() - before < 64 << 20, "256 pages, not 256 huge ones"


def test_what_no_host_has_is_refused() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (1 << 40, hard))
    try:
        with pytest.raises((OSError, ValueError, OverflowError)):
            lazy_zeros(1 << 45)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
