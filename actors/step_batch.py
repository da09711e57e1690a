"""Turns a batcher's step into the arrays of a forward: the one place where the two words meet.

Pure numpy; it knows sequences and batches, and neither actors nor tensors.
"""

from collections.abc import Iterator
from collections.abc import Sequence as SequenceOf
from typing import Any

import numpy as np
import numpy.typing as npt

from models.forward_batch import ForwardBatch
from models.sampling_extras import Needs, RowExtras, needs, pack_rows
from scheduling.batcher import Slot
from scheduling.sequence import Sequence


def forward_batch(slots: SequenceOf[Slot], *, with_extras: bool = True) -> ForwardBatch:
    """Lay the slots of a step in one ragged row, in the order given.

    A step that only computes KV again needs no extras.
    """
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
        extras=pack_rows(_extras(slots)) if with_extras else b"",
    )


def _extras(slots: SequenceOf[Slot]) -> Iterator[RowExtras]:
    """What is asked beyond the arrays, and the tokens that it depends on."""
    for row, slot in enumerate(slots):
        parameters = slot.sequence.sampling.extras
        if not parameters:
            continue
        needed = needs(parameters)
        if slot.samples or (needed.prompt_logprobs and _is_prompt(slot)):
            yield _row(row, slot, needed)


def _is_prompt(slot: Slot) -> bool:
    return slot.start < slot.sequence.num_prompt_tokens - 1


def _row(row: int, slot: Slot, needed: Needs) -> RowExtras:
    sequence, num_prompt = slot.sequence, slot.sequence.num_prompt_tokens
    end = slot.start + slot.length
    output = sequence.token_ids[num_prompt:] if needed.output and slot.samples else []
    prompt = _prompt_ids(sequence) if needed.prompt and slot.samples else _array([], np.int32)
    return RowExtras(
        row=row,
        parameters=sequence.sampling.extras,
        num_prompt_tokens=num_prompt,
        next_id=sequence.token_ids[end] if end < num_prompt else -1,
        prompt_ids=prompt,
        output_ids=_array(output, np.int32),
    )


def _prompt_ids(sequence: Sequence) -> npt.NDArray[np.int32]:
    """The distinct tokens of a prompt; it never changes, so they are found once."""
    if not sequence.distinct_prompt:
        prompt = _array(sequence.token_ids[: sequence.num_prompt_tokens], np.int32)
        sequence.distinct_prompt = np.unique(prompt).tobytes()
    return np.frombuffer(sequence.distinct_prompt, np.int32)


def _array(values: list[Any], dtype: Any) -> npt.NDArray[Any]:
    return np.asarray(values, dtype)


def _padded(tables: list[list[int]]) -> npt.NDArray[np.int32]:
    padded = np.full((len(tables), max(map(len, tables))), -1, np.int32)
    for row, table in zip(padded, tables, strict=True):
        row[: len(table)] = table
    return padded
