"""From the last layer to tokens: logits, what is asked of them beyond a draw, and the draw.

Batches in which nobody asks for more than temperature and filters take the short way.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from models import logprobs
from models.forward_batch import ForwardBatch
from models.grammar import GrammarMasks
from models.sampling import sample
from models.sampling_extras import RowExtras, unpack_rows
from models.shaping import Places, shape

Told = tuple[tuple[int, bytes], ...]
"""(sequence of the batch, packed logprobs)."""


def next_tokens(
    batch: ForwardBatch,
    to_logits: logprobs.ToLogits,
    eos_token_ids: Sequence[int],
    grammars: GrammarMasks,
) -> tuple[npt.NDArray[np.int32], Told]:
    """The next token of every sequence that asks for one, and the logprobs that are asked for.

    Shapes:
        Returns [B] int32, as `sample` does.

    Raises:
        ShapeMismatch: the batch's extras are garbled.
    """
    extras = unpack_rows(batch.extras, batch.num_sequences) if batch.extras else []
    told = logprobs.of_prompts(extras, batch, to_logits)
    last = (np.cumsum(batch.lengths) - 1)[batch.samples]
    if not len(last):
        return np.full(batch.num_sequences, -1, np.int32), tuple(told.items())
    logits = to_logits(torch.from_numpy(last.astype(np.int64)))
    if not extras:
        return sample(logits, batch, eos_token_ids), ()
    places = _places(extras, batch)
    plain = _plain(logits, places)
    shape(logits, places, batch, grammars)
    tokens = sample(logits, batch, eos_token_ids, shaped=True)
    for row, row_logits in plain:
        if (token := int(tokens[row.row])) >= 0:
            position = int(batch.starts[row.row]) + int(batch.lengths[row.row])
            data = logprobs.entries(row_logits, [position], [token], row.wanted.num_logprobs)
            told[row.row] = told.get(row.row, b"") + data
    return tokens, tuple(told.items())


def _places(extras: Sequence[RowExtras], batch: ForwardBatch) -> Places:
    """Those that draw, with their rows of the logits."""
    index = np.cumsum(batch.samples) - 1
    return [(int(index[row.row]), row) for row in extras if batch.samples[row.row]]


def _plain(logits: torch.Tensor, places: Places) -> list[tuple[RowExtras, torch.Tensor]]:
    """The logits of those that want to be told, [1, V] each, before they are changed."""
    wanting = [(index, row) for index, row in places if row.wanted.num_logprobs >= 0]
    return [(row, logits[index : index + 1].clone()) for index, row in wanting]
