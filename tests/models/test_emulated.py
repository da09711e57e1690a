from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.emulated import EmulatedShard, expected_tokens
from tests.models.driving import Schedule, generate, make_batch, run

PROMPTS = [[5, 6, 7], list(range(40, 60)), [9]]
LAYERS = 6


def _shards(bounds: tuple[int, ...] = (0, 2, LAYERS), **options: int) -> list[EmulatedShard]:
    return [
        EmulatedShard(start, end, LAYERS, num_blocks=64, block_tokens=4, **options)  # type: ignore[arg-type]
        for start, end in pairwise(bounds)
    ]


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 2**32),
    st.integers(1, 25),
    st.sampled_from([(0, 6), (0, 1, 6), (0, 2, 3, 6), (0, 5, 6)]),
)
def test_any_schedule_over_any_split_gives_the_expected_tokens(
    seed: int, max_chunk: int, bounds: tuple[int, ...]
) -> None:
    schedule = Schedule(seed=seed, max_chunk=max_chunk, skip=0.3, preempt=0.1)
    got = generate(_shards(bounds), PROMPTS, 8, schedule)
    assert got == [expected_tokens(prompt, 8, LAYERS) for prompt in PROMPTS]


@pytest.mark.parametrize("place", range(9))
@pytest.mark.parametrize("layer", [0, 3, 5])
def test_one_wrong_entry_anywhere_changes_the_next_token(layer: int, place: int) -> None:
    shards, prompt, table = _shards((0, LAYERS)), list(range(9)), [7, 2, 5]
    first = run(shards, make_batch([prompt], [0], [table]))[0]
    block = np.array([table[place // 4]], np.int32)
    entries = bytearray(shards[0].read_blocks(layer, block))
    entries[8 * (place % 4)] ^= 1
    shards[0].write_blocks(layer, block, bytes(entries))
    second = run(shards, make_batch([[first]], [9], [table]))[0]
    assert [first] == expected_tokens(prompt, 1, LAYERS)
    assert second != expected_tokens(prompt, 2, LAYERS)[1]


def test_blocks_in_the_wrong_order_change_the_next_token() -> None:
    shards, prompt = _shards((0, LAYERS)), list(range(9))
    first = run(shards, make_batch([prompt], [0], [[0, 1, 2]]))[0]
    swapped = run(shards, make_batch([[first]], [9], [[1, 0, 2]]))[0]
    assert swapped != expected_tokens(prompt, 2, LAYERS)[1]


def test_a_sampled_stream_depends_on_seed_and_position_only() -> None:
    got = generate(_shards(), PROMPTS, 5, Schedule(seed=2, skip=0.5), temperatures=1.0, seeds=11)
    assert got == [expected_tokens(p, 5, LAYERS, temperature=1.0, seed=11) for p in PROMPTS]
    assert got != [expected_tokens(p, 5, LAYERS, temperature=1.0, seed=12) for p in PROMPTS]
    assert got != [expected_tokens(p, 5, LAYERS) for p in PROMPTS]


def test_suppressed_end_tokens_are_never_drawn() -> None:
    eos = tuple(range(0, 32000, 2))
    shards = [EmulatedShard(0, LAYERS, LAYERS, num_blocks=64, block_tokens=4, eos_token_ids=eos)]
    got = generate(shards, PROMPTS, 6, Schedule(), suppress_eos=True)
    expected = [expected_tokens(p, 6, LAYERS, eos_token_ids=eos, min_tokens=6) for p in PROMPTS]
    assert got == expected
    assert not {token for tokens in got for token in tokens} & set(eos)
    assert generate(shards, PROMPTS, 6, Schedule()) != expected
