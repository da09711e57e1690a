"""What follows from a step's batch alone, worked out once for all stages that see the same batch.

Every stage of a pipeline gets the same batch, in bytes of its own. The one idea: equal bytes are
one batch, so the second stage finds what the first one read and worked out. Facts say nothing of
what a cache holds: that is every shard's own to look at.
"""

from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

from actors.step_record import step_work
from models import layout
from models.forward_batch import ForwardBatch
from runtime.simulation.quick_hash import TokenWords
from runtime.simulation.table_keys import Ints, Keys, keys_at, table_sums, without
from scheduling.roofline import StepWork

_T = TypeVar("_T")

NUM_KEPT = 64
"""More than the steps that all pipelines of a cluster usually have in flight."""
TOLD_BYTES = 256
"""Of a batch's bytes so many are hashed, and then all are compared."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepFacts:
    """Places and counts of one step.

    Shapes:
        starts, lengths, ends: [B], positions where a sequence's tokens begin and end.
        last: [B], the row of each sequence's last token.
        slots: [T], each token's place in the cache.
        heads: [B], each sequence's first block.
        known_by, known_then: [B], the keys of each table before this step and after it.
        known_bytes: the former as bytes, which are quicker to compare.
        fresh, fresh_heads: [X], the blocks whose first entry is written now, and whose they are.
        has_twins: whether two sequences have the same first block, or begin the same block.
        is_decoding: whether every sequence has one token.
        tokens: what they bring to every layer.
    """

    starts: Ints
    lengths: Ints
    ends: Ints
    last: Ints
    slots: Ints
    heads: Ints
    known_by: Keys
    known_bytes: bytes
    known_then: Keys
    fresh: Ints
    fresh_heads: Ints
    has_twins: bool
    is_decoding: bool
    tokens: TokenWords
    work: StepWork


class StepReader:
    """Reads batches and works out their facts, or finds them again; for all shards of a cluster."""

    def __init__(self) -> None:
        self._batches: _Newest[bytes, tuple[bytes, ForwardBatch]] = _Newest()
        self._facts: _Newest[int, tuple[ForwardBatch, tuple[int, int], StepFacts]] = _Newest()

    def unpack(self, data: bytes) -> ForwardBatch:
        """`ForwardBatch.unpack`; equal bytes give the same batch."""
        told = data[:TOLD_BYTES]
        known = self._batches.get(told)
        if known is not None and known[0] == data:
            return known[1]
        batch = ForwardBatch.unpack(data)
        self._batches.put(told, (data, batch))
        return batch

    def read(self, batch: ForwardBatch, num_blocks: int, block_tokens: int) -> StepFacts:
        """The facts of a batch, for caches of so many blocks of so many tokens.

        Raises:
            OutOfBlocks: a block table names a block outside the cache, or too few blocks.
        """
        geometry = (num_blocks, block_tokens)
        known = self._facts.get(id(batch))
        # Only what is kept here cannot give its id to another batch.
        if known is not None and known[0] is batch and known[1] == geometry:
            return known[2]
        layout.check_blocks(batch, num_blocks, block_tokens)
        facts = step_facts(batch, block_tokens)
        self._facts.put(id(batch), (batch, geometry, facts))
        return facts


_K = TypeVar("_K")


class _Newest(Generic[_K, _T]):
    """The newest `NUM_KEPT` things by their keys."""

    __slots__ = ("_kept", "get")

    def __init__(self) -> None:
        self._kept: dict[_K, _T] = {}
        self.get = self._kept.get

    def put(self, key: _K, thing: _T) -> None:
        self._kept.pop(key, None)
        self._kept[key] = thing
        if len(self._kept) > NUM_KEPT:
            del self._kept[next(iter(self._kept))]


def step_facts(batch: ForwardBatch, block_tokens: int) -> StepFacts:
    """Work out the facts of a batch."""
    starts, lengths = batch.starts.astype(np.int64), batch.lengths.astype(np.int64)
    ends = starts + lengths
    heads = batch.block_tables[:, 0].astype(np.int64)
    first, stop = -(-starts // block_tokens), -(-ends // block_tokens)
    row, index = _begun(first, stop)
    fresh = batch.block_tables[row, index].astype(np.int64)
    sums = table_sums(batch.block_tables, stop)
    known_by = keys_at(without(sums, row, index, fresh), starts)
    return StepFacts(
        starts=starts,
        lengths=lengths,
        ends=ends,
        last=np.cumsum(lengths) - 1,
        slots=layout.slots(batch, block_tokens),
        heads=heads,
        known_by=known_by,
        known_bytes=known_by.tobytes(),
        known_then=keys_at(sums, ends),
        fresh=fresh,
        fresh_heads=heads[row],
        has_twins=_has_twins(heads) or _has_twins(fresh),
        is_decoding=batch.num_tokens == batch.num_sequences,
        tokens=TokenWords(),
        work=step_work(batch),
    )


def _begun(first: Ints, stop: Ints) -> tuple[Ints, Ints]:
    """The rows, and the places there, of all blocks from each row's first to where it stops."""
    counts = stop - first
    row = np.repeat(np.arange(len(first)), counts)
    before = np.cumsum(counts) - counts
    return row, np.arange(len(row)) - np.repeat(before - first, counts)


def _has_twins(blocks: Ints) -> bool:
    return len(set(blocks.tolist())) < len(blocks)
