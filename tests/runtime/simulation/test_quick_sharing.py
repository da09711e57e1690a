"""Requests that begin alike, on quick shards: sums that are kept are never another's."""

import random

import pytest

from actors.step_batch import forward_batch
from runtime.simulation.quick_hash import expected_tokens
from runtime.simulation.quick_shard import QuickShard
from scheduling.batcher import Batcher, BatcherSettings
from scheduling.blocks import BlockPool
from scheduling.sequence import SamplingParameters, Sequence

NUM_LAYERS, VOCAB, NUM_BLOCKS, BLOCK_TOKENS = 5, 300, 40, 4
SETTINGS = BatcherSettings(
    max_running=8,
    max_waiting=64,
    max_step_tokens=24,
    max_in_flight=1,
    num_stages=1,
    max_model_tokens=200,
    prefix_sharing=True,
)


def shard(start: int, end: int) -> QuickShard:
    return QuickShard(
        start,
        end,
        NUM_LAYERS,
        num_blocks=NUM_BLOCKS,
        block_tokens=BLOCK_TOKENS,
        vocab_size=VOCAB,
    )


@pytest.mark.parametrize("seed", range(4))
def test_every_token_is_right_though_sequences_share_their_first_blocks(seed: int) -> None:
    rng = random.Random(seed)
    stages = [shard(0, 2), shard(2, NUM_LAYERS)]
    batcher = Batcher(SETTINGS, BlockPool(NUM_BLOCKS, BLOCK_TOKENS))
    beginning = [rng.randrange(VOCAB) for _ in range(24)]
    prompts, received = {}, {}
    for number in range(40):
        prompt = beginning[: rng.randrange(25)] + [rng.randrange(3)] * rng.randint(1, 5)
        name = f"r{number}"
        prompts[name], received[name] = prompt, list[int]()
        batcher.add(
            Sequence(
                request_id=name,
                token_ids=list(prompt),
                max_tokens=8,
                sampling=SamplingParameters(temperature=0.0),
            )
        )
    while (step := batcher.next_step()) is not None:
        batch, hidden = forward_batch(step.slots), None
        for stage in stages:
            result = stage.forward(batch, hidden)
            hidden = result.hidden
        assert result.token_ids is not None
        for output in batcher.complete(step.number, result.token_ids.tolist()):
            received[output.request_id] += output.token_ids
    for name, prompt in prompts.items():
        assert received[name] == expected_tokens(prompt, 8, NUM_LAYERS, vocab_size=VOCAB)
    statistics = batcher.statistics()
    assert statistics.num_prefix_hits > 200
    assert statistics.num_preemptions + statistics.num_kept_blocks > 0
