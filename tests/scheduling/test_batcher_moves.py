"""Sequences that come from elsewhere, or go there: their blocks, their order and their end."""

import pytest

from scheduling.batcher import Batcher, Output
from scheduling.blocks import BlockPool
from scheduling.errors import DuplicateRequest, Infeasible, InvalidStep
from scheduling.sequence import Sequence
from tests.scheduling.batching import (
    TOKEN,
    add_all,
    give,
    make_batcher,
    make_sequence,
    names,
    spans,
    take,
)


def moved(
    batcher: Batcher, name: str = "moved", *, length: int = 6, max_tokens: int = 10
) -> Sequence:
    """A sequence that has all but its last token in blocks that were reserved for it."""
    sequence = make_sequence(name, length=length, max_tokens=max_tokens)
    reserved = batcher.reserve(-(-length // 4))
    assert reserved is not None
    table, _ = reserved
    sequence.block_table, sequence.num_computed, sequence.residency = table, length - 1, 1
    return sequence


# --- coming


def test_an_adopted_sequence_goes_on_where_it_stopped() -> None:
    batcher = make_batcher()
    batcher.adopt(moved(batcher))
    step = take(batcher)
    assert spans(step) == [(5, 1, True)]
    assert give(batcher, step) == [Output("moved", 0, (TOKEN,), None)]
    batcher.check_integrity()


def test_an_adopted_sequence_without_blocks_waits_its_turn() -> None:
    batcher = make_batcher(max_running=1)
    batcher.add(make_sequence("first"))
    give(batcher, take(batcher))
    batcher.adopt(make_sequence("moved"))
    assert (batcher.num_running, batcher.num_waiting) == (1, 1)
    batcher.cancel("first")
    assert names(take(batcher)) == ["moved"]
    batcher.check_integrity()


def test_an_adopted_sequence_is_the_youngest() -> None:
    batcher = make_batcher(num_blocks=4, block_tokens=4, num_stages=1, max_in_flight=1)
    add_all(batcher, [make_sequence("old", length=8)])
    give(batcher, take(batcher))
    batcher.adopt(moved(batcher, length=4))
    for _ in range(5):
        give(batcher, take(batcher))
    assert [s.request_id for s in batcher.running] == ["old"]
    assert [s.request_id for s in batcher.sequences] == ["old", "moved"]


def test_a_request_that_is_here_is_not_adopted_again() -> None:
    batcher = make_batcher()
    batcher.add(make_sequence("a"))
    with pytest.raises(DuplicateRequest, match="request a"):
        batcher.adopt(make_sequence("a"))


def test_an_adopted_sequence_that_outgrows_all_blocks_is_refused_or_ends() -> None:
    """Where it was there were more of them; nobody behind it may wait for ever."""
    batcher = make_batcher(num_blocks=2, block_tokens=4)
    try:
        batcher.adopt(moved(batcher, length=6, max_tokens=30))
    except Infeasible:
        return
    for _ in range(10):
        step = batcher.next_step()
        assert step is not None, "it has not ended, and gets no further"
        if any(output.finish_reason for output in give(batcher, step)):
            return
    pytest.fail("it runs on without end")


# --- blocks for those that come


def test_reserved_blocks_are_nobody_elses_until_they_are_given_back() -> None:
    batcher = make_batcher(num_blocks=4, block_tokens=4)
    reserved = batcher.reserve(3)
    assert reserved is not None
    table, _ = reserved
    assert len(set(table)) == 3
    assert batcher.reserve(2) is None
    batcher.add(make_sequence(length=8))
    assert batcher.next_step() is None
    batcher.give_back(table)
    assert names(take(batcher)) == ["a"]
    batcher.check_integrity()


def test_the_very_blocks_of_a_sequence_are_claimed_where_they_are_free() -> None:
    batcher = make_batcher(num_blocks=8, block_tokens=4)
    batcher.claim([5, 2])
    sequence = make_sequence("moved", length=6, max_tokens=10)
    sequence.block_table, sequence.num_computed = [5, 2], 5
    batcher.adopt(sequence)
    batcher.check_integrity()
    assert batcher.statistics().num_free_blocks == 6


@pytest.mark.parametrize("table", [[1, 2], [7, 8], [-1], [4, 4]])
def test_what_is_not_free_is_not_claimed_and_nothing_with_it(table: list[int]) -> None:
    batcher = make_batcher(num_blocks=8, block_tokens=4)
    batcher.claim([2])
    with pytest.raises(ValueError, match="block"):
        batcher.claim(table)
    assert batcher.statistics().num_free_blocks == 7


# --- going


def test_a_parked_sequence_is_in_no_step_and_keeps_its_blocks() -> None:
    batcher = make_batcher(num_blocks=3, block_tokens=4, num_stages=1, max_in_flight=1)
    add_all(batcher, [make_sequence("stays"), make_sequence("goes")])
    give(batcher, take(batcher))
    batcher.park("goes")
    free = batcher.statistics().num_free_blocks
    assert names(take(batcher)) == ["stays"]
    batcher.abandon_steps()
    assert batcher.statistics().num_free_blocks == free - 1  # the one that "stays" grew by
    batcher.park("goes", parked=False)
    batcher.cancel("stays")
    assert names(take(batcher)) == ["goes"]


def test_a_parked_sequence_that_waits_is_not_let_in() -> None:
    batcher = make_batcher()
    batcher.add(make_sequence("goes"))
    batcher.park("goes")
    assert batcher.next_step() is None
    assert batcher.num_waiting == 1
    batcher.park("goes", parked=False)
    assert names(take(batcher)) == ["goes"]


def test_what_is_given_away_leaves_room() -> None:
    batcher = make_batcher(num_blocks=1, block_tokens=4, max_running=1)
    add_all(batcher, [make_sequence("goes", length=3), make_sequence("next", length=3)])
    give(batcher, take(batcher))
    batcher.park("goes")
    assert batcher.next_step() is None
    batcher.cancel("goes")
    assert names(take(batcher)) == ["next"]
    assert batcher.sequence("goes") is None


def test_a_preempted_sequence_has_another_residency_when_it_is_back() -> None:
    batcher = make_batcher()
    batcher.add(make_sequence("a"))
    give(batcher, take(batcher))
    sequence = batcher.sequence("a")
    assert sequence is not None
    before = sequence.residency
    batcher.preempt("a")
    assert (sequence.block_table, sequence.num_computed) == ([], 0)
    assert spans(take(batcher)) == [(0, 5, True)]
    assert sequence.residency == before + 1


def test_a_sequence_in_a_step_or_in_the_queue_is_not_preempted() -> None:
    batcher = make_batcher(max_running=1)
    add_all(batcher, [make_sequence("runs"), make_sequence("waits")])
    take(batcher)
    for name in ("runs", "waits", "unknown"):
        with pytest.raises(InvalidStep, match=f"request {name} cannot be preempted"):
            batcher.preempt(name)


# --- other blocks


def test_blocks_that_another_pool_has_not_are_known_by_other_numbers_there() -> None:
    batcher = make_batcher(num_blocks=8, block_tokens=4)
    batcher.claim([7, 1])
    sequence = make_sequence("a", length=6, max_tokens=10)
    sequence.block_table, sequence.num_computed = [7, 1], 5
    batcher.adopt(sequence)
    batcher.change_pool(BlockPool(4, 4), {7: 3})
    assert sequence.block_table == [3, 1]
    batcher.check_integrity()
    assert batcher.statistics().num_free_blocks == 2
    give(batcher, take(batcher))
    batcher.cancel("a")
    assert batcher.statistics().num_free_blocks == 4


@pytest.mark.parametrize("numbers", [{}, {7: 1}], ids=["outside the pool", "two become one"])
def test_blocks_that_have_no_place_of_their_own_in_another_pool_are_refused(
    numbers: dict[int, int],
) -> None:
    batcher = make_batcher(num_blocks=8, block_tokens=4)
    batcher.claim([7, 1])
    sequence = make_sequence("a", length=6, max_tokens=10)
    sequence.block_table, sequence.num_computed = [7, 1], 5
    batcher.adopt(sequence)
    with pytest.raises(ValueError, match="block"):
        batcher.change_pool(BlockPool(4, 4), numbers)
