from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.errors import OutOfBlocks, ShapeMismatch
from models.replay_log import ReplayLog
from tests.models.driving import make_batch

NUM_BLOCKS, BLOCK_TOKENS, ROW = 6, 4, 24
BLOCK = BLOCK_TOKENS * ROW


def _log(max_blocks: int = NUM_BLOCKS) -> ReplayLog:
    return ReplayLog(NUM_BLOCKS, BLOCK_TOKENS, ROW, max_blocks * BLOCK)


def _rows(count: int, seed: int = 0) -> memoryview:
    return memoryview(np.random.default_rng(seed).bytes(count * ROW))


class Span(NamedTuple):
    """A sequence's tokens in a batch, and its blocks."""

    start: int
    length: int
    table: list[int]

    def slots(self) -> list[tuple[int, int]]:
        """Block and place in it of every token."""
        places = range(self.start, self.start + self.length)
        return [(self.table[p // BLOCK_TOKENS], p % BLOCK_TOKENS) for p in places]


@st.composite
def _spans(draw: st.DrawFn) -> list[Span]:
    """Some sequences with tables apart from one another."""
    blocks = draw(st.permutations(range(NUM_BLOCKS)))
    spans: list[Span] = []
    while blocks and len(spans) < draw(st.integers(1, 3)):
        count = draw(st.integers(1, len(blocks)))
        table, blocks = blocks[:count], blocks[count:]
        start = draw(st.integers(0, count * BLOCK_TOKENS - 1))
        length = draw(st.integers(1, count * BLOCK_TOKENS - start))
        spans.append(Span(start, length, table))
    return spans


@settings(deadline=None)
@given(st.lists(_spans(), min_size=1, max_size=4), st.integers(0, NUM_BLOCKS))
def test_the_last_row_written_for_a_slot_is_read_as_a_dictionary_would_give_it(
    writes: list[list[Span]], max_blocks: int
) -> None:
    log, known = _log(max_blocks), dict[tuple[int, int], bytes]()
    for number, spans in enumerate(writes):
        batch = make_batch(
            [[0] * s.length for s in spans], [s.start for s in spans], [s.table for s in spans]
        )
        rows = _rows(batch.num_tokens, number)
        log.write(batch, rows)
        tokens = [slot for span in spans for slot in span.slots()]
        for row, token in enumerate(tokens):
            known[token] = bytes(rows[row * ROW : (row + 1) * ROW])
        if all(block < max_blocks for block, _ in tokens):
            assert bytes(log.read(batch)) == bytes(rows)
    for (block, place), expected in known.items():
        if block < max_blocks:
            one = make_batch([[0]], [place], [[block]])
            assert bytes(log.read(one)) == expected


def test_blocks_beyond_its_bytes_are_not_logged_and_it_says_so() -> None:
    log = ReplayLog(NUM_BLOCKS, BLOCK_TOKENS, ROW, 2 * BLOCK + BLOCK - 1)
    assert log.num_logged_blocks == 2
    assert log.num_bytes == 2 * BLOCK
    ids = np.array([0, 1, 2, 5, -1, NUM_BLOCKS], np.int32)
    assert log.holds(ids).tolist() == [True, True, False, False, False, False]
    with pytest.raises(OutOfBlocks, match="block 2: only 0:2 are logged"):
        log.read(make_batch([[0] * 8], [0], [[1, 2]]))


@pytest.mark.parametrize("max_bytes", [0, BLOCK - 1])
def test_a_log_without_room_for_a_block_logs_nothing_and_takes_writes(max_bytes: int) -> None:
    log = ReplayLog(NUM_BLOCKS, BLOCK_TOKENS, ROW, max_bytes)
    log.write(make_batch([[0]], [0], [[0]]), _rows(1))
    assert log.num_bytes == log.num_logged_blocks == 0
    with pytest.raises(OutOfBlocks, match="block 0"):
        log.read(make_batch([[0]], [0], [[0]]))


def test_it_is_never_larger_than_the_cache() -> None:
    assert ReplayLog(NUM_BLOCKS, BLOCK_TOKENS, ROW, 1 << 40).num_bytes == NUM_BLOCKS * BLOCK


def test_what_was_read_does_not_change_with_later_writes() -> None:
    log, batch = _log(), make_batch([[0] * 5], [0], [[4, 2]])
    log.write(batch, _rows(5))
    before = log.read(batch)
    log.write(batch, _rows(5, seed=1))
    assert bytes(before) == bytes(_rows(5))


def test_rows_of_another_size_are_refused() -> None:
    with pytest.raises(ShapeMismatch, match="hidden states: expected 48 bytes, got 24"):
        _log().write(make_batch([[0, 0]], [0], [[0]]), _rows(1))


def test_rows_follow_their_blocks_when_these_are_renumbered() -> None:
    log, batch = _log(), make_batch([[0] * 8], [0], [[0, 3]])
    log.write(batch, _rows(8))
    log.copy_blocks(np.array([0, 3], np.int32), np.array([3, 1], np.int32))
    assert bytes(log.read(make_batch([[0] * 8], [0], [[3, 1]]))) == bytes(_rows(8))
    with pytest.raises(OutOfBlocks):
        _log(2).copy_blocks(np.array([0], np.int32), np.array([2], np.int32))


def test_a_log_that_fits_no_memory_is_refused() -> None:
    with pytest.raises(OutOfBlocks, match="does not fit"):
        ReplayLog(1 << 40, 1 << 10, 1 << 12, 1 << 62)
