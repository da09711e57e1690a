"""Drives shards as a pipeline does, with a schedule as unkind as chance can make it."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from models.forward_batch import ForwardBatch
from models.interface import Shard


def make_batch(
    token_ids: Sequence[Sequence[int]],
    starts: Sequence[int],
    tables: Sequence[Sequence[int]],
    **fields: Any,
) -> ForwardBatch:
    """A batch of these tokens for each sequence; greedy and all sampled unless told otherwise."""
    num_sequences = len(starts)
    padded = np.full((num_sequences, max(map(len, tables))), -1, np.int32)
    for row, table in zip(padded, tables, strict=True):
        row[: len(table)] = table
    defaults: dict[str, tuple[Any, Any]] = {
        "samples": (True, np.bool_),
        "suppress_eos": (False, np.bool_),
        "seeds": (0, np.uint64),
        "temperatures": (0.0, np.float32),
        "top_ps": (1.0, np.float32),
        "min_ps": (0.0, np.float32),
        "top_ks": (0, np.int32),
    }
    arrays = {
        name: np.broadcast_to(np.asarray(fields.pop(name, value), dtype), num_sequences).copy()
        for name, (value, dtype) in defaults.items()
    }
    extras = fields.pop("extras", b"")
    assert not fields
    return ForwardBatch(
        token_ids=np.array([token for row in token_ids for token in row], np.int32),
        starts=np.array(starts, np.int32),
        lengths=np.array([len(row) for row in token_ids], np.int32),
        block_tables=padded,
        extras=extras,
        **arrays,
    )


def run(shards: Sequence[Shard], batch: ForwardBatch) -> list[int]:
    """One step through all shards; each takes a copy of the batch as bytes, as on the wire."""
    hidden = None
    for shard in shards:
        result = shard.forward(ForwardBatch.unpack(batch.pack()), hidden)
        hidden = result.hidden
    assert result.token_ids is not None
    return [int(token) for token in result.token_ids]


def decode(
    shards: Sequence[Shard], texts: Sequence[list[int]], tables: Sequence[list[int]], count: int
) -> None:
    """Draw `count` tokens for every text, greedily, and append them."""
    for _ in range(count):
        starts = [len(text) - 1 for text in texts]
        drawn = run(shards, make_batch([[text[-1]] for text in texts], starts, tables))
        for text, token in zip(texts, drawn, strict=True):
            text.append(token)


def computed(texts: Sequence[list[int]], tables: Sequence[list[int]]) -> ForwardBatch:
    """One batch of all tokens that have KV: every text but for its last token."""
    return make_batch([text[:-1] for text in texts], [0] * len(texts), tables, samples=False)


@dataclass(slots=True)
class Request:
    """One request on its way."""

    prompt: list[int]
    tokens: list[int]
    num_computed: int = 0
    table: list[int] = field(default_factory=list)


@dataclass
class Schedule:
    """How unkind to be: longest chunk, how often to skip or to preempt a sequence."""

    seed: int = 0
    max_chunk: int = 10**6
    skip: float = 0.0
    preempt: float = 0.0
    shuffle: bool = True


def generate(
    shards: Sequence[Shard],
    prompts: Sequence[list[int]],
    num_tokens: int,
    schedule: Schedule,
    **fields: Any,
) -> list[list[int]]:
    """Continue all prompts by `num_tokens`, in ragged batches; returns the generated tokens."""
    rng = random.Random(schedule.seed)
    free = list(range(shards[0].num_blocks))
    if schedule.shuffle:
        rng.shuffle(free)
    sequences = [Request(prompt, list(prompt)) for prompt in prompts]
    while unfinished := [s for s in sequences if len(s.tokens) < len(s.prompt) + num_tokens]:
        for sequence in unfinished:
            if sequence.num_computed and rng.random() < schedule.preempt:
                free[:0] = sequence.table
                sequence.table, sequence.num_computed = [], 0
        chosen = [s for s in unfinished if rng.random() >= schedule.skip] or unfinished[:1]
        _step(shards, chosen, free, rng, schedule, fields)
    return [s.tokens[len(s.prompt) :] for s in sequences]


def _step(
    shards: Sequence[Shard],
    chosen: list[Request],
    free: list[int],
    rng: random.Random,
    schedule: Schedule,
    fields: dict[str, Any],
) -> None:
    chunks = []
    for sequence in chosen:
        waiting = sequence.tokens[sequence.num_computed :]
        chunk = waiting[: rng.randint(1, schedule.max_chunk)]
        end = sequence.num_computed + len(chunk)
        while len(sequence.table) * shards[0].block_tokens < end:
            sequence.table.append(free.pop())
        chunks.append(chunk)
    batch = make_batch(
        chunks,
        [s.num_computed for s in chosen],
        [s.table for s in chosen],
        samples=[
            s.num_computed + len(chunk) == len(s.tokens)
            for s, chunk in zip(chosen, chunks, strict=True)
        ],
        **fields,
    )
    drawn = run(shards, batch)
    for sequence, chunk, token in zip(chosen, chunks, drawn, strict=True):
        sequence.num_computed += len(chunk)
        if sequence.num_computed == len(sequence.tokens):
            sequence.tokens.append(token)
        else:
            assert token == -1
