"""What follows from a step's batch alone, worked out once for all stages that see the same batch.

Every stage of a pipeline gets the same batch, in bytes of its own. The one idea: a few arrays'
bytes tell batches apart, so the second stage finds what the first one worked out. Facts say nothing
of what a cache holds: that is every shard's own to look at.
"""

from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from models import layout
from models.forward_batch import ForwardBatch
from scheduling.roofline import StepWork

Ints = npt.NDArray[np.int64]

NUM_KEPT = 64
"""More than the steps that all pipelines of a cluster usually have in flight."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepFacts:
    """Places and counts of one step.

    Shapes:
        starts, lengths, ends: [B], positions where a sequence's tokens begin and end.
        slots: [T], each token's place in the cache.
        index: [W'], the block numbers before the longest start.
        unused: [B, W'], whether a sequence has no entry in that block yet.
        written_row, written_index: [X], the blocks that are written: whose, and which of theirs.
    """

    starts: Ints
    lengths: Ints
    ends: Ints
    slots: Ints
    index: Ints
    unused: npt.NDArray[np.bool_]
    written_row: Ints
    written_index: Ints
    work: StepWork


class StepReader:
    """Works facts out, or finds them again; for all shards of a cluster."""

    def __init__(self) -> None:
        self._known: OrderedDict[tuple[bytes, int, int, int], StepFacts] = OrderedDict()

    def read(self, batch: ForwardBatch, num_blocks: int, block_tokens: int) -> StepFacts:
        """The facts of a batch, for caches of so many blocks of so many tokens.

        Raises:
            OutOfBlocks: a block table names a block outside the cache, or too few blocks.
        """
        arrays = (batch.starts, batch.lengths, batch.samples, batch.block_tables)
        told = b"".join(array.tobytes() for array in arrays)
        key = (told, batch.num_sequences, num_blocks, block_tokens)
        facts = self._known.get(key)
        if facts is None:
            layout.check_blocks(batch, num_blocks, block_tokens)
            facts = self._known[key] = step_facts(batch, block_tokens)
            if len(self._known) > NUM_KEPT:
                self._known.popitem(last=False)
        return facts


def step_facts(batch: ForwardBatch, block_tokens: int) -> StepFacts:
    """Work out the facts of a batch."""
    starts, lengths = batch.starts.astype(np.int64), batch.lengths.astype(np.int64)
    used = -(-starts // block_tokens)
    index = np.arange(int(used.max()))
    row, written = _written(starts, starts + lengths, block_tokens)
    return StepFacts(
        starts=starts,
        lengths=lengths,
        ends=starts + lengths,
        slots=layout.slots(batch, block_tokens),
        index=index,
        unused=index >= used[:, None],
        written_row=row,
        written_index=written,
        work=step_work(batch),
    )


def step_work(batch: ForwardBatch) -> StepWork:
    """What a batch asks of every stage."""
    starts, lengths = batch.starts.astype(np.int64), batch.lengths.astype(np.int64)
    num_tokens = batch.num_tokens
    before = int(starts @ lengths)
    return StepWork(
        num_tokens=num_tokens,
        num_pairs=before + (int(lengths @ lengths) + num_tokens) // 2,
        num_context=int(starts.sum()) + num_tokens,
        num_drawn=int(np.count_nonzero(batch.samples)),
    )


def _written(starts: Ints, ends: Ints, block_tokens: int) -> tuple[Ints, Ints]:
    """The rows and the numbers in them of all blocks with tokens from each start to each end."""
    first, last = starts // block_tokens, (ends - 1) // block_tokens
    counts = last - first + 1
    row = np.repeat(np.arange(len(first)), counts)
    before = np.cumsum(counts) - counts
    return row, np.arange(len(row)) - np.repeat(before - first, counts)
