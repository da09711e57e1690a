"""Two emulated shards, of different arithmetic and memory, take notice of the same faults."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from hypothesis import event, given, settings
from hypothesis import strategies as st

from models.emulated import EmulatedShard
from models.emulated import expected_tokens as reference_tokens
from models.interface import Shard
from runtime.simulation.quick_hash import expected_tokens as quick_tokens
from runtime.simulation.quick_shard import QuickShard
from tests.models.driving import make_batch, run

LAYERS, VOCAB, BLOCK_TOKENS, NUM_BLOCKS = 4, 30_000, 4, 16
BOUNDS = (0, 1, LAYERS)
LENGTH, NUM_DRAWN = 10, 3
PROMPT = list(range(50, 50 + LENGTH))


@dataclass(frozen=True)
class Fault:
    """What goes wrong between the first token and the second."""

    what: str
    layer: int
    place: int
    other: int


faults = st.builds(
    Fault,
    st.sampled_from(["nothing", "bit", "lost", "stale", "swapped", "overwritten", "rewritten"]),
    st.integers(0, LAYERS - 1),
    st.integers(0, LENGTH + BLOCK_TOKENS),
    st.integers(0, NUM_BLOCKS - 1),
)
tables = st.permutations(range(NUM_BLOCKS)).map(lambda blocks: blocks[:4])


def reference() -> list[Shard]:
    return [
        EmulatedShard(
            start,
            end,
            LAYERS,
            num_blocks=NUM_BLOCKS,
            block_tokens=BLOCK_TOKENS,
            vocab_size=VOCAB,
        )
        for start, end in pairwise(BOUNDS)
    ]


def quick() -> list[Shard]:
    return [
        QuickShard(
            start,
            end,
            LAYERS,
            num_blocks=NUM_BLOCKS,
            block_tokens=BLOCK_TOKENS,
            vocab_size=VOCAB,
        )
        for start, end in pairwise(BOUNDS)
    ]


def happen(fault: Fault, shards: Sequence[Shard], table: list[int]) -> None:
    shard = next(s for s in shards if s.layers[0] <= fault.layer < s.layers[1])
    index, offset = divmod(fault.place, BLOCK_TOKENS)
    block, other = (np.array([b], np.int32) for b in (table[index], fault.other))
    before = bytes(shard.read_blocks(fault.layer, block))
    match fault.what:
        case "bit":
            wrong = bytearray(before)
            wrong[8 * offset + 1] ^= 4
            shard.write_blocks(fault.layer, block, wrong)
        case "lost":
            shard.write_blocks(fault.layer, block, bytes(len(before)))
        case "stale":
            shard.write_blocks(fault.layer, block, shard.read_blocks(fault.layer, other))
        case "swapped" if fault.other != table[index]:
            ids = np.concatenate([block, other])
            shard.copy_blocks(ids, ids[::-1])
        case "overwritten":  # by another sequence, which thinks that the block is its own
            run(shards, make_batch([[7]], [0], [[fault.other]]))
        case "rewritten":
            shard.write_blocks(fault.layer, block, before)


def stream(shards: Sequence[Shard], table: list[int], fault: Fault, chunk: int) -> list[int]:
    tokens = list[int]()
    for start in range(0, LENGTH, chunk):
        tokens = run(shards, make_batch([PROMPT[start : start + chunk]], [start], [table]))
    happen(fault, shards, table)
    while len(tokens) < NUM_DRAWN:
        tokens += run(shards, make_batch([[tokens[-1]]], [LENGTH + len(tokens) - 1], [table]))
    return tokens


@settings(max_examples=200, deadline=None)
@given(faults, tables, st.integers(1, LENGTH))
def test_both_emulated_shards_go_wrong_by_the_same_faults_and_by_no_other(
    fault: Fault, table: list[int], chunk: int
) -> None:
    expected = reference_tokens(PROMPT, NUM_DRAWN, LAYERS, vocab_size=VOCAB)
    is_right = stream(reference(), table, fault, chunk) == expected
    quickly = quick_tokens(PROMPT, NUM_DRAWN, LAYERS, vocab_size=VOCAB)
    event(f"{fault.what}: {'right' if is_right else 'wrong'}")
    assert (stream(quick(), table, fault, chunk) == quickly) == is_right
    if fault.what in ("nothing", "rewritten"):
        assert is_right
    if fault.what in ("bit", "lost") and fault.place < LENGTH:
        assert not is_right
