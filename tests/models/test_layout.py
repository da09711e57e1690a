import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models import layout
from models.errors import OutOfBlocks, ShapeMismatch
from tests.models.driving import make_batch


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(1, 9)), min_size=1, max_size=5))
def test_every_token_has_the_slot_that_counting_by_hand_gives(spans: list[tuple[int, int]]) -> None:
    size = 4
    tables = [[100 * row + 7 * i % 11 for i in range(9)] for row in range(len(spans))]
    batch = make_batch([[0] * n for _, n in spans], [start for start, _ in spans], tables)
    expected = [
        tables[row][place // size] * size + place % size
        for row, (start, n) in enumerate(spans)
        for place in range(start, start + n)
    ]
    assert layout.slots(batch, size).tolist() == expected
    places = [place for start, n in spans for place in range(start, start + n)]
    assert layout.positions(batch).tolist() == places


@pytest.mark.parametrize("table", [[0], [0, -1], [0, 8], [-5, 0]])
def test_tables_too_short_or_outside_the_cache_are_refused(table: list[int]) -> None:
    batch = make_batch([[1, 2]], [3], [table])
    with pytest.raises(OutOfBlocks, match="sequence 0: expected 2 blocks in 0:8"):
        layout.check_blocks(batch, 8, 4)


def test_the_refusal_names_the_sequence_that_is_wrong() -> None:
    batch = make_batch([[1], [1]], [0, 0], [[0], [9]])
    with pytest.raises(OutOfBlocks, match=r"sequence 1: .* got \[9\]"):
        layout.check_blocks(batch, 8, 4)


def test_blocks_that_no_token_needs_are_not_looked_at() -> None:
    layout.check_blocks(make_batch([[1, 2]], [0], [[3, 99]]), 8, 4)


def test_layers_ids_bytes_and_tokens_out_of_range_are_refused() -> None:
    assert layout.check_layer(4, (3, 5)) == 1
    with pytest.raises(ShapeMismatch, match="expected one of this shard, 3:5"):
        layout.check_layer(5, (3, 5))
    with pytest.raises(OutOfBlocks, match="block 8"):
        layout.check_ids(np.array([1, 8], np.int32), 8)
    with pytest.raises(ShapeMismatch, match="expected 4 bytes, got nothing"):
        layout.check_bytes("hidden states", None, 4)
    with pytest.raises(ShapeMismatch, match="token id -1"):
        layout.check_token_ids(np.array([3, -1], np.int32), 8)
