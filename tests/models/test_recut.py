"""Shards cut anew while they serve: what both cuts have is shared, and no token changes."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Protocol

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.emulated import EmulatedShard, expected_tokens
from models.errors import OutOfBlocks, ShapeMismatch
from models.forward_batch import ForwardBatch
from models.interface import ForwardResult, Shard
from models.replay_log import ReplayLog
from models.shard import TorchShard, load_shard
from tests.models.driving import computed, decode, make_batch, run
from tests.models.families import FAMILIES, NUM_LAYERS

NUM_BLOCKS, BLOCK_TOKENS = 24, 4
PROMPTS = [[3, 1, 4, 1, 5, 9, 2, 6, 5], [2, 7], [1] * 6]
TABLES = [[11, 3, 7, 20, 5], [0, 1, 2, 4], [23, 22, 6, 9]]
USED = np.concatenate([np.array(table, np.int32) for table in TABLES])
FULL = np.array([11, 3, 23], np.int32)
"""Blocks with a token in every slot once each prompt has three tokens more."""


class Cut(Protocol):
    """Makes a shard of layers `[start, end)`, beside a held one if it is given one."""

    def __call__(self, start: int, end: int, held: Shard | None = None) -> Shard: ...


def _emulated(start: int, end: int, held: Shard | None = None) -> EmulatedShard:
    assert held is None or isinstance(held, EmulatedShard)
    return EmulatedShard(
        start, end, NUM_LAYERS, num_blocks=NUM_BLOCKS, block_tokens=BLOCK_TOKENS, held=held
    )


def _real(path: Path, dtype: str) -> Cut:
    def cut(start: int, end: int, held: Shard | None = None) -> Shard:
        assert held is None or isinstance(held, TorchShard)
        return load_shard(
            path,
            start,
            end,
            num_blocks=NUM_BLOCKS,
            block_tokens=BLOCK_TOKENS,
            dtype=dtype,
            held=held,
        )

    return cut


@pytest.fixture(params=["emulated", *FAMILIES, "llama in bfloat16"])
def cut(request: pytest.FixtureRequest, checkpoint_of: Callable[[str], Path]) -> Cut:
    if request.param == "emulated":
        return _emulated
    family, _, dtype = str(request.param).partition(" in ")
    return _real(checkpoint_of(family), dtype or "float32")


def _pipeline(cut: Cut, bounds: Sequence[int]) -> list[Shard]:
    return [cut(start, end) for start, end in pairwise(bounds)]


def _recut(cut: Cut, old: Sequence[Shard], bounds: Sequence[int]) -> list[Shard]:
    """The pipeline of other bounds: each shard beside the old one at its place, if there is one."""
    places = [*old, *[None] * len(bounds)]
    return [cut(*layers, held) for layers, held in zip(pairwise(bounds), places, strict=False)]


def _move_gained(old: Sequence[Shard], new: Sequence[Shard]) -> None:
    """Copy the KV of every layer that its new shard has not from its old one."""
    for place, shard in enumerate(new):
        had = range(*old[place].layers) if place < len(old) else range(0)
        for layer in set(range(*shard.layers)) - set(had):
            holder = next(s for s in old if s.layers[0] <= layer < s.layers[1])
            shard.write_blocks(layer, USED, holder.read_blocks(layer, USED))


def _start(shards: Sequence[Shard], num_tokens: int) -> list[list[int]]:
    """Texts that are their prompts and the first tokens drawn."""
    starts = [0] * len(PROMPTS)
    first = run(shards, make_batch(PROMPTS, starts, TABLES))
    texts = [[*prompt, token] for prompt, token in zip(PROMPTS, first, strict=True)]
    decode(shards, texts, TABLES, num_tokens - 1)
    return texts


@pytest.mark.parametrize(
    ("before", "after"),
    [((0, 2, 5), (0, 3, 5)), ((0, 3, 5), (0, 1, 4, 5)), ((0, 1, 4, 5), (0, 5))],
)
def test_a_cut_made_anew_in_mid_stream_changes_no_token(
    cut: Cut, before: tuple[int, ...], after: tuple[int, ...]
) -> None:
    undisturbed = _start(_pipeline(cut, before), 8)
    old = _pipeline(cut, before)
    texts = _start(old, 3)
    new = _recut(cut, old, after)
    decode(old, texts, TABLES, 2)
    _move_gained(old, new)
    decode(new, texts, TABLES, 3)
    assert texts == undisturbed


_BOUNDS = st.sets(st.integers(1, NUM_LAYERS - 1)).map(lambda cuts: (0, *sorted(cuts), NUM_LAYERS))


@settings(max_examples=60, deadline=None)
@given(st.lists(_BOUNDS, min_size=2, max_size=5))
def test_any_number_of_cuts_in_a_row_gives_the_expected_tokens(
    bounds: list[tuple[int, ...]],
) -> None:
    shards = _pipeline(_emulated, bounds[0])
    texts = _start(shards, 1)
    for other in bounds[1:]:
        new = _recut(_emulated, shards, other)
        _move_gained(shards, new)
        decode(new, texts, TABLES, 1)
        shards = new
    expected = [expected_tokens(p, len(bounds), NUM_LAYERS) for p in PROMPTS]
    assert [text[len(p) :] for text, p in zip(texts, PROMPTS, strict=True)] == expected


def test_what_one_shard_writes_into_a_shared_layer_the_other_reads_and_in_others_not(
    cut: Cut,
) -> None:
    held = cut(1, 3)
    new = cut(2, 4, held)
    block = np.array([5], np.int32)
    data = bytes(range(256)) * (len(held.read_blocks(2, block)) // 256 + 1)
    data = data[: len(held.read_blocks(2, block))]
    fresh = new.read_blocks(3, block)
    held.write_blocks(2, block, data)
    assert new.read_blocks(2, block) == data
    held.write_blocks(1, block, data)
    assert new.read_blocks(3, block) == fresh != data


def test_blocks_of_another_size_are_never_shared(cut: Cut) -> None:
    held = cut(1, 3)
    if isinstance(held, TorchShard):
        path, dtype = held.origin.path, str(held.origin.dtype).removeprefix("torch.")
        new: Shard = load_shard(path, 1, 3, num_blocks=6, block_tokens=16, dtype=dtype, held=held)
    else:
        assert isinstance(held, EmulatedShard)
        new = EmulatedShard(1, 3, NUM_LAYERS, num_blocks=6, block_tokens=16, held=held)
    every = np.arange(NUM_BLOCKS, dtype=np.int32)
    before = new.read_blocks(2, every[:6])
    held.write_blocks(2, every, bytes(range(256)) * (len(held.read_blocks(2, every)) // 256))
    assert new.read_blocks(2, every[:6]) == before


def _remember(shard: Shard) -> ReplayLog:
    """A log of all that a shard gives out from now on, as a stage keeps it."""
    run_plainly, spare = shard.forward, make_batch([[0]], [0], [[10]])
    row = run_plainly(spare, None).hidden
    assert row is not None
    log = ReplayLog(NUM_BLOCKS, BLOCK_TOKENS, row.nbytes, 1 << 20)

    def forward(batch: ForwardBatch, hidden: memoryview | None) -> ForwardResult:
        result = run_plainly(batch, hidden)
        assert result.hidden is not None
        log.write(batch, result.hidden)
        return result

    shard.forward = forward  # type: ignore[method-assign]
    return log


def test_lost_layers_are_rebuilt_from_what_the_shard_before_gave_out(cut: Cut) -> None:
    undisturbed = _start(_pipeline(cut, (0, 2, NUM_LAYERS)), 6)
    first, last = shards = _pipeline(cut, (0, 2, NUM_LAYERS))
    log = _remember(first)
    texts = _start(shards, 3)
    kept = last.read_blocks(4, USED)
    lost = [last.read_blocks(layer, FULL) for layer in (2, 3)]
    for layer in (2, 3):
        last.write_blocks(layer, USED, bytes(last.read_blocks(layer, USED))[::-1])
    assert lost[0] != last.read_blocks(2, FULL)
    batch = computed(texts, TABLES)
    last.narrowed(2, 4).forward(batch, log.read(batch))
    assert last.read_blocks(4, USED) == kept
    if isinstance(last, EmulatedShard):  # where no rounding depends on what is in a batch
        assert [last.read_blocks(layer, FULL) for layer in (2, 3)] == lost
    decode(shards, texts, TABLES, 3)
    assert texts == undisturbed


def test_a_replacement_is_filled_from_the_log_alone(cut: Cut) -> None:
    undisturbed = _start(_pipeline(cut, (0, 2, NUM_LAYERS)), 6)
    first, last = _pipeline(cut, (0, 2, NUM_LAYERS))
    log = _remember(first)
    texts = _start([first, last], 3)
    replacement, batch = cut(2, NUM_LAYERS), computed(texts, TABLES)
    drawn = replacement.forward(batch, log.read(batch)).token_ids
    assert drawn is not None
    assert set(drawn.tolist()) == {-1}
    decode([first, replacement], texts, TABLES, 3)
    assert texts == undisturbed


def test_narrowed_shards_one_after_another_are_the_whole(cut: Cut) -> None:
    whole, parts = cut(0, NUM_LAYERS), cut(0, NUM_LAYERS)
    narrowed = [parts.narrowed(start, end) for start, end in pairwise((0, 1, 3, NUM_LAYERS))]
    assert [shard.layers for shard in narrowed] == [(0, 1), (1, 3), (3, NUM_LAYERS)]
    assert _start(narrowed, 4) == _start([whole], 4)
    for layer in range(NUM_LAYERS):
        assert parts.read_blocks(layer, USED[:2]) == whole.read_blocks(layer, USED[:2])


def test_a_narrowed_shard_leaves_the_whole_one_as_it_is(cut: Cut) -> None:
    shard, other = cut(0, NUM_LAYERS), cut(0, NUM_LAYERS)
    shard.narrowed(1, 2)
    assert shard.layers == (0, NUM_LAYERS)
    assert _start([shard], 3) == _start([other], 3)


@pytest.mark.parametrize("part", [(0, 2), (2, 5), (2, 2), (3, 2)])
def test_layers_that_are_not_there_cannot_be_narrowed_to(cut: Cut, part: tuple[int, int]) -> None:
    with pytest.raises(ShapeMismatch, match="expected a range in 1:4"):
        cut(1, 4).narrowed(*part)


def test_renumbered_blocks_continue_the_stream_even_where_places_are_swapped(cut: Cut) -> None:
    shards = _pipeline(cut, (0, 2, NUM_LAYERS))
    undisturbed = _start(_pipeline(cut, (0, 2, NUM_LAYERS)), 6)
    texts = _start(shards, 3)
    rotated = np.roll(USED, 1)
    for shard in shards:
        shard.copy_blocks(USED, rotated)
    renamed = dict(zip(USED.tolist(), rotated.tolist(), strict=True))
    decode(shards, texts, [[renamed[block] for block in table] for table in TABLES], 3)
    assert texts == undisturbed


def test_blocks_that_cannot_be_copied_are_refused_and_nothing_moves(cut: Cut) -> None:
    shard = cut(0, 2)
    shard.forward(make_batch([list(range(12))], [0], [[5, 6, 7]]), None)
    ids = np.array([5, 6, 7], np.int32)
    before = shard.read_blocks(0, ids)
    for sources, targets, error in (
        ([5], [6, 7], ShapeMismatch),
        ([5, 6], [7, 7], ShapeMismatch),
        ([5], [NUM_BLOCKS], OutOfBlocks),
        ([-1], [5], OutOfBlocks),
    ):
        with pytest.raises(error):
            shard.copy_blocks(np.array(sources, np.int32), np.array(targets, np.int32))
    assert shard.read_blocks(0, ids) == before
