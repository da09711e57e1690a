"""Turns a batcher's step into the arrays of a forward: the one place where the two words meet.

Pure numpy; it knows sequences and batches, and neither actors nor tensors.
"""

from collections.abc import Sequence as SequenceOf
from typing import Any

import numpy as np
import numpy.typing as npt

from models.forward_batch import ForwardBatch
from scheduling.batcher import Slot


def forward_batch(slots: SequenceOf[Slot]) -> ForwardBatch:
    """Lay the slots of a step in one ragged row, in the order given."""
    sequences = [slot.sequence for slot in slots]
    sampling = [sequence.sampling for sequence in sequences]
    token_ids = [
        token
        for slot in slots
        for token in slot.sequence.token_ids[slot.start : slot.start + slot.length]
    ]
    return ForwardBatch(
        token_ids=_array(token_ids, np.int32),
        starts=_array([slot.start for slot in slots], np.int32),
        lengths=_array([slot.length for slot in slots], np.int32),
        block_tables=_padded([sequence.block_table for sequence in sequences]),
        samples=_array([slot.samples for slot in slots], np.bool_),
        suppress_eos=_array([s.num_generated < s.min_tokens for s in sequences], np.bool_),
        seeds=_array([s.seed for s in sampling], np.uint64),
        temperatures=_array([s.temperature for s in sampling], np.float32),
        top_ps=_array([s.top_p for s in sampling], np.float32),
        min_ps=_array([s.min_p for s in sampling], np.float32),
        top_ks=_array([s.top_k for s in sampling], np.int32),
    )


def _array(values: list[Any], dtype: Any) -> npt.NDArray[Any]:
    return np.asarray(values, dtype)


def _padded(tables: list[list[int]]) -> npt.NDArray[np.int32]:
    padded = np.full((len(tables), max(map(len, tables))), -1, np.int32)
    for row, table in zip(padded, tables, strict=True):
        row[: len(table)] = table
    return padded
