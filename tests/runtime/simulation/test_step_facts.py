import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.errors import OutOfBlocks
from models.forward_batch import ForwardBatch
from runtime.simulation.step_facts import NUM_KEPT, TOLD_BYTES, StepReader, step_facts
from runtime.simulation.table_keys import BROKEN, NOTHING
from tests.models.driving import make_batch

BLOCK_TOKENS, NUM_BLOCKS = 4, 100

sequences = st.lists(st.tuples(st.integers(0, 40), st.integers(1, 12)), min_size=1, max_size=6)


def batch_of(places: list[tuple[int, int]]) -> ForwardBatch:
    """Sequences by their starts and lengths, each with blocks of its own."""
    tables = [list(range(row * 13, row * 13 + 13)) for row in range(len(places))]
    return make_batch([[1] * n for _, n in places], [start for start, _ in places], tables)


@given(sequences)
def test_the_fresh_blocks_are_those_of_slots_in_no_block_from_before(
    places: list[tuple[int, int]],
) -> None:
    batch = batch_of(places)
    facts = step_facts(batch, BLOCK_TOKENS)
    before = {
        int(block)
        for (start, _), table in zip(places, batch.block_tables, strict=True)
        for block in table[: -(-start // BLOCK_TOKENS)]
    }
    now = {slot // BLOCK_TOKENS for slot in facts.slots.tolist()}
    assert facts.fresh.tolist() == sorted(now - before)
    assert facts.fresh_heads.tolist() == [block // 13 * 13 for block in facts.fresh.tolist()]


@given(sequences, st.data())
def test_what_a_step_leaves_is_what_the_next_one_is_known_by(
    places: list[tuple[int, int]], data: st.DataObject
) -> None:
    first = step_facts(batch_of(places), BLOCK_TOKENS)
    after = [(start + n, 1) for start, n in places if start + n < 13 * BLOCK_TOKENS]
    order = [i for i, (start, n) in enumerate(places) if start + n < 13 * BLOCK_TOKENS]
    if not after:
        return
    tables = batch_of(places).block_tables[order]
    batch = make_batch([[1]] * len(after), [start for start, _ in after], tables.tolist())
    then = step_facts(batch, BLOCK_TOKENS)
    assert then.known_by.tolist() == first.known_then[order].tolist()
    row = data.draw(st.integers(0, len(after) - 1))
    place = data.draw(st.integers(0, (after[row][0] - 1) // BLOCK_TOKENS))
    tables[row, place] += 1
    other = make_batch([[1]] * len(after), [start for start, _ in after], tables.tolist())
    changed = step_facts(other, BLOCK_TOKENS).known_by != then.known_by
    assert np.flatnonzero(changed).tolist() == [row]


@given(st.lists(st.integers(0, 40), min_size=1, max_size=6), st.integers(1, 12))
def test_a_sequence_at_its_beginning_is_known_by_nothing(starts: list[int], length: int) -> None:
    facts = step_facts(batch_of([(start, length) for start in starts]), BLOCK_TOKENS)
    assert (facts.known_by == NOTHING).tolist() == [start == 0 for start in starts]
    assert not (facts.known_then == NOTHING).any()
    assert not np.isin(BROKEN, [*facts.known_by, *facts.known_then])


@pytest.mark.parametrize(
    ("starts", "tables", "expected"),
    [
        ([1, 1], [[0], [1]], False),
        ([1, 1], [[0], [0]], True),
        ([4, 8], [[0, 1], [2, 3, 1]], True),
        ([5, 9], [[0, 1], [2, 3, 1]], False),
    ],
)
def test_sequences_with_one_first_block_or_one_new_block_are_twins(
    starts: list[int], tables: list[list[int]], *, expected: bool
) -> None:
    batch = make_batch([[1]] * len(starts), starts, tables)
    assert step_facts(batch, BLOCK_TOKENS).has_twins is expected


@given(sequences)
def test_a_steps_work_is_the_sum_of_its_tokens(places: list[tuple[int, int]]) -> None:
    work = step_facts(batch_of(places), BLOCK_TOKENS).work
    pairs = sum(place + 1 for start, n in places for place in range(start, start + n))
    assert work.num_pairs == pairs
    assert work.num_tokens == sum(n for _, n in places)
    assert work.num_context == sum(start + n for start, n in places)
    assert work.num_drawn == len(places)


def test_equal_bytes_are_one_batch_and_others_are_not_mistaken_for_it() -> None:
    reader = StepReader()
    first = reader.unpack(batch_of([(3, 2)]).pack())
    assert reader.unpack(batch_of([(3, 2)]).pack()) is first
    long = batch_of([(0, 12)] * 6)
    other = batch_of([(0, 12)] * 5 + [(1, 12)])
    assert long.pack()[:TOLD_BYTES] == other.pack()[:TOLD_BYTES]
    for batch in (batch_of([(2, 3)]), long, other, long):
        assert reader.unpack(batch.pack()).pack() == batch.pack()


def test_a_batch_is_worked_out_once_for_each_geometry() -> None:
    reader, batch = StepReader(), batch_of([(3, 2)])
    first = reader.read(batch, NUM_BLOCKS, BLOCK_TOKENS)
    assert reader.read(batch, NUM_BLOCKS, BLOCK_TOKENS) is first
    assert reader.read(batch_of([(3, 2)]), NUM_BLOCKS, BLOCK_TOKENS) is not first
    assert reader.read(batch, NUM_BLOCKS, 2) is not first
    silent = make_batch([[1, 1]], [3], [list(range(13))], samples=False)
    assert reader.read(silent, NUM_BLOCKS, BLOCK_TOKENS).work.num_drawn == 0


def test_a_batch_outside_of_the_cache_is_refused_however_often_it_comes() -> None:
    reader, batch = StepReader(), batch_of([(3, 2)])
    for _ in range(2):
        with pytest.raises(OutOfBlocks):
            reader.read(batch, 1, BLOCK_TOKENS)
    reader.read(batch, NUM_BLOCKS, BLOCK_TOKENS)
    with pytest.raises(OutOfBlocks):
        reader.read(batch, 1, BLOCK_TOKENS)


def test_only_the_newest_batches_are_kept() -> None:
    reader = StepReader()
    packed = [batch_of([(n % 40, 1 + n // 40)]).pack() for n in range(NUM_KEPT + 1)]
    first = reader.unpack(packed[0])
    facts = reader.read(first, NUM_BLOCKS, BLOCK_TOKENS)
    for data in packed[1:NUM_KEPT]:
        reader.read(reader.unpack(data), NUM_BLOCKS, BLOCK_TOKENS)
    assert reader.unpack(packed[0]) is first
    assert reader.read(first, NUM_BLOCKS, BLOCK_TOKENS) is facts
    reader.read(reader.unpack(packed[NUM_KEPT]), NUM_BLOCKS, BLOCK_TOKENS)
    assert reader.unpack(packed[0]) is not first
    assert reader.read(first, NUM_BLOCKS, BLOCK_TOKENS) is not facts
