import random
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.simulation.quick_hash import expected_tokens, is_right
from runtime.simulation.quick_shard import ROW_BYTES, QuickShard
from tests.models.driving import Schedule, generate, make_batch, run

PROMPTS = [[5, 6, 7], list(range(40, 60)), [9]]
LAYERS, VOCAB, BLOCK_TOKENS = 6, 500, 4


def _shards(*bounds: int) -> list[QuickShard]:
    return [
        QuickShard(a, b, LAYERS, num_blocks=64, block_tokens=BLOCK_TOKENS, vocab_size=VOCAB)
        for a, b in pairwise(bounds)
    ]


def _expected(prompt: list[int], num_tokens: int, **options: float) -> list[int]:
    return expected_tokens(prompt, num_tokens, LAYERS, vocab_size=VOCAB, **options)  # type: ignore[arg-type]


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**32),
    st.integers(1, 25),
    st.sampled_from([(0, 6), (0, 1, 6), (0, 2, 3, 6), (0, 5, 6)]),
)
def test_any_schedule_over_any_split_gives_the_expected_tokens(
    seed: int, max_chunk: int, bounds: tuple[int, ...]
) -> None:
    schedule = Schedule(seed=seed, max_chunk=max_chunk, skip=0.3, preempt=0.1)
    got = generate(_shards(*bounds), PROMPTS, 8, schedule)
    assert got == [_expected(prompt, 8) for prompt in PROMPTS]


def test_a_sampled_stream_depends_on_seed_and_position_only() -> None:
    got = generate(_shards(0, LAYERS), PROMPTS, 5, Schedule(seed=2), temperatures=1.0, seeds=11)
    assert got == [_expected(p, 5, temperature=1.0, seed=11) for p in PROMPTS]
    assert got != [_expected(p, 5, temperature=1.0, seed=12) for p in PROMPTS]


@pytest.mark.parametrize("place", range(9))
@pytest.mark.parametrize("layer", [0, 3, 5])
@pytest.mark.parametrize("bit", [0, 63])
def test_one_wrong_bit_anywhere_changes_the_next_token(layer: int, place: int, bit: int) -> None:
    shards, prompt, table = _shards(0, LAYERS), list(range(9)), [7, 2, 5]
    first = run(shards, make_batch([prompt], [0], [table]))[0]
    block = np.array([table[place // BLOCK_TOKENS]], np.int32)
    entries = bytearray(shards[0].read_blocks(layer, block))
    entries[8 * (place % BLOCK_TOKENS) + bit // 8] ^= 1 << bit % 8
    shards[0].write_blocks(layer, block, bytes(entries))
    second = run(shards, make_batch([[first]], [9], [table]))[0]
    assert [first] == _expected(prompt, 1)
    assert second != _expected(prompt, 2)[1]


def test_a_block_that_was_wrong_for_one_step_is_told_for_ever() -> None:
    shards, prompt, table = _shards(0, LAYERS), list(range(9)), [7, 2, 5]
    tokens = run(shards, make_batch([prompt], [0], [table]))
    block = np.array([2], np.int32)
    right = shards[0].read_blocks(3, block)
    shards[0].write_blocks(3, block, bytes(len(right)))
    tokens += run(shards, make_batch([[_expected(prompt, 2)[0]]], [9], [table]))
    shards[0].write_blocks(3, block, right)
    tokens += run(shards, make_batch([[_expected(prompt, 2)[1]]], [10], [table]))
    expected = _expected(prompt, 3)
    assert [a == b for a, b in zip(tokens, expected, strict=True)] == [True, False, False]


@pytest.mark.parametrize(
    ("table", "start"), [([1, 0, 2], 9), ([0, 1, 3], 9), ([0, 1, 2], 8), ([3, 1, 2], 9)]
)
def test_blocks_elsewhere_than_they_were_change_the_next_token(
    table: list[int], start: int
) -> None:
    shards, prompt = _shards(0, LAYERS), list(range(9))
    first = run(shards, make_batch([prompt], [0], [[0, 1, 2]]))[0]
    assert run(shards, make_batch([[first]], [start], [table]))[0] != _expected(prompt, 2)[1]


def test_a_block_that_another_sequence_wrote_to_changes_the_next_token() -> None:
    shards, prompt = _shards(0, LAYERS), list(range(9))
    first = run(shards, make_batch([prompt], [0], [[0, 1, 2]]))[0]
    run(shards, make_batch([[4]], [0], [[1]]))
    assert run(shards, make_batch([[first]], [9], [[0, 1, 2]]))[0] != _expected(prompt, 2)[1]


def test_hidden_states_of_another_token_change_the_next_token() -> None:
    first, last = _shards(0, 3, LAYERS)
    batch = make_batch([[1, 2, 3]], [0], [[0]])
    hidden = first.forward(batch, None).hidden
    assert hidden is not None
    wrong = bytearray(hidden)
    wrong[8:16] = wrong[24:32]  # what came of the layers, of the wrong token
    wrong[40:48] = wrong[24:32]
    got = last.forward(batch, memoryview(wrong)).token_ids
    assert got is not None
    assert got.tolist() != _expected([1, 2, 3], 1)


@pytest.mark.parametrize(("start", "end"), [(1, 4), (0, 6), (2, 6), (3, 5), (0, 3)])
def test_layers_that_are_shared_go_on_where_they_were(start: int, end: int) -> None:
    """Entries move from the shards that had them to one that has some of them already."""
    old, prompt, table = _shards(0, 2, 4, LAYERS), list(range(9)), [3, 9, 4]
    first = run(old, make_batch([prompt], [0], [table]))[0]
    ids = np.array(table, np.int32)
    new = QuickShard(
        start,
        end,
        LAYERS,
        num_blocks=64,
        block_tokens=BLOCK_TOKENS,
        vocab_size=VOCAB,
        held=old[1],
    )
    for layer in range(start, end):
        owner = next(shard for shard in old if shard.layers[0] <= layer < shard.layers[1])
        if owner is not old[1]:
            new.write_blocks(layer, ids, owner.read_blocks(layer, ids))
    around = [*_moved(old, 0, start, ids), new, *_moved(old, end, LAYERS, ids)]
    second = run(around, make_batch([[first]], [9], [table]))[0]
    assert [first, second] == _expected(prompt, 2)


def _moved(
    old: list[QuickShard], start: int, end: int, ids: np.ndarray[tuple[int], np.dtype[np.int32]]
) -> list[QuickShard]:
    """A shard of its own with what others hold."""
    if start == end:
        return []
    shard = _shards(start, end)[0]
    for layer in range(start, end):
        owner = next(s for s in old if s.layers[0] <= layer < s.layers[1])
        shard.write_blocks(layer, ids, owner.read_blocks(layer, ids))
    return [shard]


def test_what_one_view_writes_the_other_reads_though_it_had_summed_it_up() -> None:
    (shard,) = _shards(0, LAYERS)
    prompt, table = list(range(9)), [0, 1, 2]
    first = run([shard], make_batch([prompt], [0], [table]))[0]
    parts = [shard.narrowed(0, 2), shard.narrowed(2, LAYERS)]
    second = run(parts, make_batch([[first]], [9], [table]))[0]
    third = run([shard], make_batch([[second]], [10], [table]))[0]
    assert [first, second, third] == _expected(prompt, 3)
    shard.narrowed(0, 2).forward(make_batch([[7]], [0], [[1]]), None)
    assert run([shard], make_batch([[third]], [11], [table]))[0] != _expected(prompt, 4)[3]


def test_sequences_that_share_their_first_blocks_do_not_share_their_sums() -> None:
    shards, prompts = _shards(0, LAYERS), [[*range(8), 50], [*range(8), 60]]
    tables = [[0, 1, 2], [0, 1, 3]]
    texts = [list(prompt) for prompt in prompts]
    run(shards, make_batch([list(range(8))], [0], [[0, 1]], samples=False))
    for _ in range(3):
        starts = [len(text) - 1 for text in texts]
        drawn = run(shards, make_batch([text[-1:] for text in texts], starts, tables))
        for text, token in zip(texts, drawn, strict=True):
            text.append(token)
    assert [text[9:] for text in texts] == [_expected(prompt, 3) for prompt in prompts]


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 2**32))
def test_sums_that_were_kept_are_those_that_would_be_read(seed: int) -> None:
    """Whatever befalls blocks, a shard that remembers nothing says the same."""
    rng = random.Random(seed)
    (shard,) = _shards(0, LAYERS)
    part = shard.narrowed(2, 5)
    starts, tables = [0] * 5, [rng.sample(range(8), 4) for _ in range(5)]
    for _ in range(30):
        rows = rng.sample(range(5), rng.randint(1, 3))
        lengths = [rng.choice((1, 1, 5)) for _ in rows]
        for row, length in zip(rows, lengths, strict=True):
            if starts[row] + length > 4 * BLOCK_TOKENS or rng.random() < 0.1:
                starts[row], tables[row] = 0, rng.sample(range(8), 4)
        batch = make_batch(
            [[rng.randrange(VOCAB) for _ in range(length)] for length in lengths],
            [starts[row] for row in rows],
            [tables[row] for row in rows],
        )
        if rng.random() < 0.1:
            hidden = memoryview(rng.randbytes(batch.num_tokens * ROW_BYTES))
            part.forward(batch, hidden)
        fresh = _forgetful(shard)
        got, expected = shard.forward(batch, None), fresh.forward(batch, None)
        assert got.token_ids is not None
        assert expected.token_ids is not None
        assert got.token_ids.tolist() == expected.token_ids.tolist()
        for row, length in zip(rows, lengths, strict=True):
            starts[row] += length


def _forgetful(shard: QuickShard) -> QuickShard:
    """A shard of its own with the same entries, which has summed up none of them."""
    (fresh,) = _shards(0, LAYERS)
    blocks = np.arange(shard.num_blocks, dtype=np.int32)
    for layer in range(LAYERS):
        fresh.write_blocks(layer, blocks, shard.read_blocks(layer, blocks))
    return fresh


def test_copied_blocks_serve_as_the_ones_they_were_copied_from() -> None:
    shards, prompt = _shards(0, 2, LAYERS), list(range(9))
    first = run(shards, make_batch([prompt], [0], [[0, 1, 2]]))[0]
    for shard in shards:
        shard.copy_blocks(np.array([0, 1, 2], np.int32), np.array([1, 2, 8], np.int32))
    second = run(shards, make_batch([[first]], [9], [[1, 2, 8]]))[0]
    assert [first, second] == _expected(prompt, 2)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=30),
    st.integers(1, 20),
    st.data(),
)
def test_a_stream_is_right_if_it_is_the_expected_one(
    prompt: list[int], num_tokens: int, data: st.DataObject
) -> None:
    tokens = _expected(prompt, num_tokens)
    assert is_right(prompt, tokens, LAYERS, VOCAB)
    wrong = data.draw(st.integers(0, num_tokens - 1))
    tokens[wrong] = (tokens[wrong] + data.draw(st.integers(1, VOCAB - 1))) % VOCAB
    assert not is_right(prompt, tokens, LAYERS, VOCAB)
