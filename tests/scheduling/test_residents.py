import pytest

from scheduling.batcher import Batcher, Output
from scheduling.sequence import Sequence
from tests.scheduling.batching import (
    TOKEN,
    add_all,
    give,
    give_names,
    make_batcher,
    make_sequence,
    names,
    spans,
    take,
)


def test_the_youngest_gives_way_when_blocks_run_out_and_waits_at_the_front() -> None:
    batcher = make_batcher(num_blocks=3, block_tokens=4, num_stages=1, max_in_flight=1)
    add_all(batcher, [make_sequence(name) for name in ("old", "middle", "young", "last")])
    assert give_names(batcher) == ["old", "middle", "young"]
    assert give_names(batcher) == ["old"]
    statistics = batcher.statistics()
    assert (statistics.num_preemptions, statistics.num_waiting) == (1, 2)
    batcher.cancel("old")
    assert give_names(batcher) == ["middle"]
    batcher.cancel("middle")
    assert give_names(batcher) == ["young", "last"]


def test_a_preempted_sequence_keeps_its_tokens_and_computes_them_again() -> None:
    batcher = make_batcher(num_blocks=4, block_tokens=4, num_stages=1, max_in_flight=1)
    add_all(batcher, [make_sequence("old", length=6), make_sequence("young", length=6)])
    for _ in range(3):
        give(batcher, take(batcher))
    assert give_names(batcher) == ["old"]
    batcher.cancel("old")
    step = take(batcher)
    assert spans(step) == [(0, 9, True)]
    assert give(batcher, step) == [Output("young", 3, (TOKEN,), None)]


def test_the_oldest_takes_the_block_as_soon_as_the_young_one_is_back() -> None:
    batcher = make_batcher(num_blocks=2, block_tokens=4)
    batcher.add(make_sequence("old", length=3))
    give(batcher, take(batcher))
    old = take(batcher)
    batcher.add(make_sequence("young", length=3))
    young = take(batcher)
    give(batcher, old)
    assert batcher.next_step() is None, "old needs a block, and young is in flight"
    give(batcher, young)
    assert names(take(batcher)) == ["old"]
    assert batcher.statistics().num_preemptions == 1


def running_batcher() -> tuple[Batcher, Sequence, Sequence]:
    batcher = make_batcher(num_stages=1)
    sequences = make_sequence("a"), make_sequence("b")
    add_all(batcher, sequences)
    give(batcher, take(batcher))
    batcher.check_integrity()
    return batcher, *sequences


def test_the_integrity_check_notices_a_block_in_a_table_of_who_does_not_hold_it() -> None:
    batcher, first, second = running_batcher()
    first.block_table = list(second.block_table)
    with pytest.raises(RuntimeError, match="in so many tables and have so many holders"):
        batcher.check_integrity()


def test_the_integrity_check_notices_a_table_that_is_too_short() -> None:
    batcher, first, _ = running_batcher()
    first.num_computed = 5
    with pytest.raises(RuntimeError, match="a has no room for 5"):
        batcher.check_integrity()


def test_the_integrity_check_notices_a_sequence_marked_without_a_step() -> None:
    batcher, first, _ = running_batcher()
    first.num_in_flight = 1
    first.num_computed = 3
    with pytest.raises(RuntimeError, match="marked are"):
        batcher.check_integrity()


def test_the_integrity_check_notices_a_queue_out_of_order() -> None:
    batcher, _, _ = running_batcher()
    add_all(batcher, [make_sequence("c"), make_sequence("d")])
    batcher._residents.waiting.reverse()
    with pytest.raises(RuntimeError, match="out of order"):
        batcher.check_integrity()


def test_the_integrity_check_notices_a_sequence_that_is_nowhere() -> None:
    batcher, _, _ = running_batcher()
    batcher.add(make_sequence("c"))
    batcher._residents.waiting.clear()
    with pytest.raises(RuntimeError, match="neither runs nor waits"):
        batcher.check_integrity()
