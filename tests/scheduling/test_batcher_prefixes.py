"""Sequences that begin alike in one batcher: what is computed, held, counted and kept."""

from scheduling.batcher import Batcher, Output
from scheduling.sequence import Sequence
from tests.scheduling.batching import TOKEN, give, make_batcher, make_sequence, spans, take

LONG = 100


def sharing(num_blocks: int = LONG, **changes: int) -> Batcher:
    return make_batcher(
        num_blocks=num_blocks, prefix_sharing=True, num_stages=1, max_in_flight=1, **changes
    )


def served(batcher: Batcher, sequence: Sequence) -> Sequence:
    """A sequence comes, has one token and goes."""
    batcher.add(sequence)
    give(batcher, take(batcher))
    batcher.cancel(sequence.request_id)
    return sequence


def test_only_what_follows_the_beginning_is_computed() -> None:
    batcher = sharing()
    served(batcher, make_sequence("a", length=10))
    batcher.add(make_sequence("b", length=11))
    step = take(batcher)
    assert spans(step) == [(8, 3, True)]
    assert give(batcher, step) == [Output("b", 0, (TOKEN,), None, num_cached=8)]
    assert give(batcher, take(batcher)) == [Output("b", 1, (TOKEN,), None)]
    statistics = batcher.statistics()
    assert (statistics.num_prefix_queries, statistics.num_prefix_hits) == (21, 8)


def test_of_a_prompt_that_is_all_there_its_last_block_is_computed_again() -> None:
    batcher = sharing()
    served(batcher, make_sequence("a", length=8))
    batcher.add(make_sequence("b", length=8))
    assert spans(take(batcher)) == [(4, 4, True)]


def test_a_beginning_is_found_only_when_its_step_is_back() -> None:
    batcher = make_batcher(prefix_sharing=True, num_stages=2)
    batcher.add(make_sequence("a", length=8))
    first = take(batcher)
    batcher.add(make_sequence("b", length=9))
    assert spans(take(batcher)) == [(0, 9, True)]
    give(batcher, first)
    batcher.add(make_sequence("c", length=9))
    assert (8, 1, True) in spans(take(batcher))


def test_what_is_held_needs_no_free_blocks_of_whoever_shares_it() -> None:
    batcher = sharing(num_blocks=5)
    batcher.add(make_sequence("a", length=14, max_tokens=2))
    give(batcher, take(batcher))
    assert batcher.statistics().num_free_blocks == 1
    batcher.add(make_sequence("b", length=13, max_tokens=2))
    assert (12, 1, True) in spans(take(batcher))
    batcher.check_integrity()
    assert batcher.statistics().num_free_blocks == 0


def test_one_that_begins_otherwise_waits_where_blocks_are_short() -> None:
    batcher = sharing(num_blocks=5)
    batcher.add(make_sequence("a", length=14, max_tokens=2))
    give(batcher, take(batcher))
    other = make_sequence("b", length=13, max_tokens=2)
    other.token_ids[0] = 5
    batcher.add(other)
    assert len(take(batcher).slots) == 1
    assert batcher.num_waiting == 1


def test_who_was_preempted_finds_what_it_had_computed_and_is_counted_once() -> None:
    batcher = sharing()
    batcher.add(make_sequence("a", length=10))
    give(batcher, take(batcher))
    batcher.preempt("a")
    step = take(batcher)
    assert spans(step) == [(8, 3, True)]
    assert give(batcher, step) == [Output("a", 1, (TOKEN,), None)]
    assert batcher.statistics().num_prefix_queries == 10


def test_who_must_compute_all_of_its_prompt_shares_nothing_and_is_shared() -> None:
    batcher = sharing()
    served(batcher, make_sequence("a", length=10))
    alone = make_sequence("b", length=10)
    alone.computes_all = True
    batcher.add(alone)
    assert spans(take(batcher)) == [(0, 10, True)]
    assert batcher.prefix_digests(alone) == ()


def test_what_came_rounded_is_found_again_once_it_was_computed() -> None:
    batcher = sharing()
    reserved = batcher.reserve(3)
    assert reserved is not None
    moved = make_sequence("moved", length=10)
    moved.block_table, moved.num_computed, moved.num_exact_blocks = reserved[0], 9, 0
    batcher.adopt(moved)
    batcher.cancel("moved")
    assert batcher.statistics().num_kept_blocks == 0
    again = make_sequence("again", length=10)
    again.num_exact_blocks = 0
    batcher.add(again)
    give(batcher, take(batcher))
    batcher.preempt("again")
    give(batcher, take(batcher))
    batcher.cancel("again")
    assert batcher.statistics().num_kept_blocks == 2


def test_reserving_holds_what_is_there_and_gives_it_back() -> None:
    batcher = sharing()
    served(batcher, make_sequence("a", length=12))
    digests = batcher.prefix_digests(make_sequence("b", length=20))
    reserved = batcher.reserve(5, digests)
    assert reserved is not None
    table, num_present = reserved
    assert (len(table), num_present) == (5, 3)
    batcher.check_integrity([table])
    batcher.give_back(table)
    batcher.check_integrity()
    assert batcher.statistics().num_kept_blocks == 3
