"""What a stage may ask of any shard, real or emulated."""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.emulated import EmulatedShard
from models.errors import ModelError, OutOfBlocks, ShapeMismatch
from models.interface import Shard
from models.kv_encoding import KV_ENCODINGS
from models.shard import load_shard
from runtime.simulation.quick_shard import QuickShard
from tests.models.driving import Schedule, generate, make_batch, run
from tests.models.families import NUM_LAYERS

Make = Callable[[int, int], Shard]
BLOCK_TOKENS = 4
NUM_BLOCKS = 48
PROMPT = [3, 1, 4, 1, 5, 9, 2, 6, 5]


def _real(path: Path, family_dtype: str) -> Make:
    return lambda start, end: load_shard(
        path, start, end, num_blocks=NUM_BLOCKS, block_tokens=BLOCK_TOKENS, dtype=family_dtype
    )


@pytest.fixture(params=["emulated", "quick", "llama", "gemma3", "llama in bfloat16"])
def make(request: pytest.FixtureRequest, checkpoint_of: Callable[[str], Path]) -> Make:
    if request.param == "emulated":
        return lambda start, end: EmulatedShard(
            start, end, NUM_LAYERS, num_blocks=NUM_BLOCKS, block_tokens=BLOCK_TOKENS
        )
    if request.param == "quick":
        return lambda start, end: QuickShard(
            start,
            end,
            NUM_LAYERS,
            num_blocks=NUM_BLOCKS,
            block_tokens=BLOCK_TOKENS,
            vocab_size=32000,
        )
    family, _, dtype = str(request.param).partition(" in ")
    return _real(checkpoint_of(family), dtype or "float32")


def _pipeline(make: Make, *bounds: int) -> list[Shard]:
    return [make(start, end) for start, end in pairwise(bounds)]


def test_a_shard_says_what_it_holds(make: Make) -> None:
    shard = make(1, 3)
    assert shard.layers == (1, 3)
    assert (shard.num_blocks, shard.block_tokens) == (NUM_BLOCKS, BLOCK_TOKENS)
    assert shard.resident_bytes >= 0


def test_only_the_last_shard_draws_and_only_where_asked(make: Make) -> None:
    first, last = _pipeline(make, 0, 2, NUM_LAYERS)
    batch = make_batch([PROMPT, [7]], [0, 0], [[0, 1, 2], [3]], samples=[False, True])
    middle = first.forward(batch, None)
    assert middle.token_ids is None
    assert middle.hidden is not None
    result = last.forward(batch, middle.hidden)
    assert result.hidden is None
    assert result.token_ids is not None
    assert result.token_ids.dtype == np.int32
    assert result.token_ids[0] == -1
    assert result.token_ids[1] >= 0


def test_a_batch_that_samples_nothing_still_fills_its_blocks(make: Make) -> None:
    shards, whole = _pipeline(make, 0, 2, NUM_LAYERS), _pipeline(make, 0, 2, NUM_LAYERS)
    assert run(shards, make_batch([PROMPT[:5]], [0], [[4, 9, 1]], samples=False)) == [-1]
    after = run(shards, make_batch([PROMPT[5:]], [5], [[4, 9, 1]]))
    assert after == run(whole, make_batch([PROMPT], [0], [[0, 1, 2]]))


def test_a_result_never_changes_after_later_forwards(make: Make) -> None:
    shard = make(0, 2)
    hidden = shard.forward(make_batch([PROMPT], [0], [[0, 1, 2]]), None).hidden
    assert hidden is not None
    before = bytes(hidden)
    shard.forward(make_batch([[8] * 9], [0], [[0, 1, 2]]), None)
    assert bytes(hidden) == before


def test_alone_or_in_a_batch_a_sequence_gets_the_same_tokens(make: Make) -> None:
    shards = _pipeline(make, 0, 3, NUM_LAYERS)
    prompts = [PROMPT, [2, 7], [1] * 11]
    together = generate(shards, prompts, 6, Schedule())
    alone = [generate(shards, [prompt], 6, Schedule(seed=1))[0] for prompt in prompts]
    assert together == alone


@pytest.mark.parametrize("layer_moves_to", ["other blocks", "another shard"])
def test_blocks_read_and_written_elsewhere_continue_the_stream(
    make: Make, layer_moves_to: str
) -> None:
    shards = _pipeline(make, 0, 2, NUM_LAYERS)
    undisturbed = generate(shards, [PROMPT], 5, Schedule())[0]
    table, moved = [11, 3, 7, 20], [30, 31, 8, 2]
    first = run(shards, make_batch([PROMPT], [0], [table]))[0]
    # The other pipeline cuts the layers elsewhere, so every layer finds a new home by itself.
    targets = shards if layer_moves_to == "other blocks" else _pipeline(make, 0, 3, NUM_LAYERS)
    for layer in range(NUM_LAYERS):
        data = _holder(shards, layer).read_blocks(layer, np.array(table[:3], np.int32))
        _holder(targets, layer).write_blocks(layer, np.array(moved[:3], np.int32), data)
    tokens = [first]
    while len(tokens) < 5:
        batch = make_batch([[tokens[-1]]], [len(PROMPT) + len(tokens) - 1], [moved])
        tokens += run(targets, batch)
    assert tokens == undisturbed


def _holder(shards: list[Shard], layer: int) -> Shard:
    return next(s for s in shards if s.layers[0] <= layer < s.layers[1])


def test_blocks_come_in_the_order_asked_and_one_by_one_are_the_same_bytes(make: Make) -> None:
    shard = make(0, 2)
    shard.forward(make_batch([list(range(12))], [0], [[5, 6, 7]]), None)
    ids = np.array([7, 5], np.int32)
    single = [shard.read_blocks(1, ids[i : i + 1]) for i in range(2)]
    assert shard.read_blocks(1, ids) == b"".join(single)
    assert single[0] != single[1]


@pytest.mark.parametrize("table", [[0, 1], [0, 1, NUM_BLOCKS], [0, -1, 1]])
def test_a_table_the_cache_cannot_serve_is_refused(make: Make, table: list[int]) -> None:
    with pytest.raises(OutOfBlocks, match="expected 3 blocks"):
        make(0, 2).forward(make_batch([PROMPT], [0], [table]), None)


@pytest.mark.parametrize("hidden", [None, memoryview(b""), memoryview(b"12345678" * 3)])
def test_hidden_states_of_another_size_are_refused(make: Make, hidden: memoryview | None) -> None:
    with pytest.raises(ShapeMismatch, match="hidden states: expected"):
        make(2, 4).forward(make_batch([PROMPT], [0], [[0, 1, 2]]), hidden)


@pytest.mark.parametrize("token", [-1, 32000])
def test_a_token_outside_the_vocabulary_is_refused(make: Make, token: int) -> None:
    with pytest.raises(ShapeMismatch, match="token id"):
        make(0, 2).forward(make_batch([[token]], [0], [[0]]), None)


def test_blocks_and_layers_that_are_not_there_are_refused(make: Make) -> None:
    shard, inside = make(0, 2), np.array([0], np.int32)
    data = shard.read_blocks(0, inside)
    for outside in (np.array([NUM_BLOCKS], np.int32), np.array([-1], np.int32)):
        with pytest.raises(OutOfBlocks):
            shard.read_blocks(0, outside)
        with pytest.raises(OutOfBlocks):
            shard.write_blocks(0, outside, data)
    with pytest.raises(ShapeMismatch, match="expected one of this shard"):
        shard.read_blocks(2, inside)
    with pytest.raises(ShapeMismatch, match="expected one of this shard"):
        shard.write_blocks(2, inside, data)
    with pytest.raises(ShapeMismatch, match="blocks: expected"):
        shard.write_blocks(0, inside, data[:-1])


def test_blocks_in_any_encoding_are_as_large_as_said_and_come_back_the_same_anywhere(
    make: Make,
) -> None:
    shard, other = make(0, 2), make(0, 2)
    shard.forward(make_batch([PROMPT], [0], [[0, 1, 2]]), None)
    ids, places = np.array([0, 1], np.int32), np.array([7, 4], np.int32)
    before = other.read_blocks(1, places)
    for encoding in KV_ENCODINGS:
        data = shard.read_blocks(1, ids, encoding)
        assert len(data) == 2 * shard.block_bytes(encoding)
        for somewhere in (ids, places):
            other.write_blocks(1, somewhere, data, encoding)
        came = other.read_blocks(1, places)
        assert came == other.read_blocks(1, ids) != before
        assert encoding != "none" or came == shard.read_blocks(1, ids)
        with pytest.raises(ShapeMismatch):
            other.write_blocks(1, places, data[:-1], encoding)


def test_an_encoding_that_there_is_not_is_refused_by_any_shard(make: Make) -> None:
    shard, ids = make(0, 2), np.array([0], np.int32)
    unknown: Any = "int2"
    with pytest.raises(ModelError, match="int2"):
        shard.block_bytes(unknown)
    with pytest.raises(ModelError, match="int2"):
        shard.read_blocks(0, ids, unknown)
    with pytest.raises(ModelError, match="int2"):
        shard.write_blocks(0, ids, shard.read_blocks(0, ids), unknown)
