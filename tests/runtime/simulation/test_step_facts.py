import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.errors import OutOfBlocks
from models.forward_batch import ForwardBatch
from runtime.simulation.step_facts import NUM_KEPT, StepReader, step_facts
from tests.models.driving import make_batch

BLOCK_TOKENS, NUM_BLOCKS = 4, 100

sequences = st.lists(st.tuples(st.integers(0, 40), st.integers(1, 12)), min_size=1, max_size=6)


def batch_of(places: list[tuple[int, int]]) -> ForwardBatch:
    """Sequences by their starts and lengths, each with blocks of its own."""
    tables = [list(range(row * 13, row * 13 + 13)) for row in range(len(places))]
    return make_batch([[1] * n for _, n in places], [start for start, _ in places], tables)


@given(sequences)
def test_the_blocks_that_are_written_are_those_of_the_tokens_slots(
    places: list[tuple[int, int]],
) -> None:
    batch = batch_of(places)
    facts = step_facts(batch, BLOCK_TOKENS)
    blocks = batch.block_tables[facts.written_row, facts.written_index].tolist()
    assert sorted(blocks) == sorted({slot // BLOCK_TOKENS for slot in facts.slots.tolist()})


@given(sequences)
def test_the_blocks_that_are_used_are_those_of_the_entries_before(
    places: list[tuple[int, int]],
) -> None:
    facts = step_facts(batch_of(places), BLOCK_TOKENS)
    used = (~facts.unused).sum(axis=1)
    assert used.tolist() == [-(-start // BLOCK_TOKENS) for start, _ in places]


@given(sequences)
def test_a_steps_work_is_the_sum_of_its_tokens(places: list[tuple[int, int]]) -> None:
    work = step_facts(batch_of(places), BLOCK_TOKENS).work
    pairs = sum(place + 1 for start, n in places for place in range(start, start + n))
    assert work.num_pairs == pairs
    assert work.num_tokens == sum(n for _, n in places)
    assert work.num_context == sum(start + n for start, n in places)
    assert work.num_drawn == len(places)


def test_the_same_batch_is_worked_out_once_and_another_is_not_mistaken_for_it() -> None:
    reader = StepReader()
    first = reader.read(batch_of([(3, 2)]), NUM_BLOCKS, BLOCK_TOKENS)
    assert reader.read(batch_of([(3, 2)]), NUM_BLOCKS, BLOCK_TOKENS) is first
    for other in (batch_of([(2, 3)]), batch_of([(3, 2), (3, 2)])):
        assert reader.read(other, NUM_BLOCKS, BLOCK_TOKENS) is not first
    assert reader.read(batch_of([(3, 2)]), NUM_BLOCKS, 2) is not first
    silent = make_batch([[1, 1]], [3], [list(range(13))], samples=False)
    assert reader.read(silent, NUM_BLOCKS, BLOCK_TOKENS).work.num_drawn == 0


def test_a_batch_outside_of_the_cache_is_refused_however_often_it_comes() -> None:
    reader = StepReader()
    for _ in range(2):
        with pytest.raises(OutOfBlocks):
            reader.read(batch_of([(3, 2)]), 1, BLOCK_TOKENS)
    reader.read(batch_of([(3, 2)]), NUM_BLOCKS, BLOCK_TOKENS)
    with pytest.raises(OutOfBlocks):
        reader.read(batch_of([(3, 2)]), 1, BLOCK_TOKENS)


def test_only_the_newest_batches_are_kept() -> None:
    reader = StepReader()
    first = reader.read(batch_of([(0, 1)]), NUM_BLOCKS, BLOCK_TOKENS)
    for start in range(NUM_KEPT):
        reader.read(batch_of([(start % 40, 1 + start // 40)]), NUM_BLOCKS, BLOCK_TOKENS)
    again = reader.read(batch_of([(0, 1)]), NUM_BLOCKS, BLOCK_TOKENS)
    assert again is first
    reader.read(batch_of([(5, 5)]), NUM_BLOCKS, BLOCK_TOKENS)
    assert reader.read(batch_of([(0, 1)]), NUM_BLOCKS, BLOCK_TOKENS) is not first
    assert np.array_equal(again.slots, first.slots)
