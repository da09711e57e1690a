"""What is kept for good is not looked at any more, and what comes later is."""

import gc
import weakref
from collections.abc import Iterator

import pytest

from runtime.garbage import keep_for_good


class Knot:
    """Something that refers to itself."""

    def __init__(self) -> None:
        self.own = self


@pytest.fixture(autouse=True)
def unfrozen() -> Iterator[None]:
    yield
    gc.unfreeze()


def test_what_is_here_is_not_looked_at_and_what_comes_later_is_freed() -> None:
    before = gc.get_freeze_count()
    knot = Knot()
    kept = weakref.ref(knot)
    keep_for_good()
    assert gc.get_freeze_count() > before + 1000
    del knot
    later = weakref.ref(Knot())
    gc.collect()
    assert kept() is not None
    assert later() is None
