"""How likely drawn and given tokens were, before anything was done to the logits.

Like vLLM's raw log-probabilities: what the model said, not what temperature, filters, penalties or
a grammar left of it. Prompts are done in blocks of rows, so that a long one never needs a matrix of
all its tokens by the whole vocabulary.
"""

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch

from models import layout
from models.forward_batch import ForwardBatch
from models.sampling_extras import RowExtras
from models.token_logprobs import pack_logprobs

BLOCK_ROWS = 64

ToLogits = Callable[[torch.Tensor], torch.Tensor]
"""Indices into a step's rows to their logits: [R] int64 to [R, V] float32."""


def entries(
    logits: torch.Tensor,
    positions: Sequence[int] | npt.NDArray[np.int64],
    targets: Sequence[int] | npt.NDArray[np.int64],
    num_top: int,
) -> bytes:
    """The packed logprobs of the target in each row.

    Shapes:
        logits: [R, V] float32. positions, targets: [R].
    """
    logprobs = logits.log_softmax(-1)
    chosen = torch.as_tensor(np.asarray(targets, np.int64), device=logits.device)[:, None]
    own = logprobs.gather(1, chosen)
    ranks = (logprobs > own).sum(-1) + 1
    values, ids = logprobs.topk(min(num_top, logprobs.shape[1]), -1)
    return pack_logprobs(
        positions,
        torch.cat([chosen, ids], 1).cpu().numpy().astype(np.int32),
        torch.cat([own, values], 1).cpu().numpy(),
        ranks.cpu().numpy().astype(np.int32),
    )


def of_prompts(
    rows: Sequence[RowExtras], batch: ForwardBatch, to_logits: ToLogits
) -> dict[int, bytes]:
    """What each row's part of the prompt in this step tells of the prompt tokens after it."""
    told = {row.row: _of_prompt(row, batch, to_logits) for row in rows}
    return {row: data for row, data in told.items() if data}


def _of_prompt(row: RowExtras, batch: ForwardBatch, to_logits: ToLogits) -> bytes:
    num_top = row.wanted.num_prompt_logprobs
    if num_top < 0:
        return b""
    ends = np.cumsum(batch.lengths)
    first, start = int(ends[row.row] - batch.lengths[row.row]), int(batch.starts[row.row])
    following = np.append(batch.token_ids[first + 1 : ends[row.row]], row.next_id)
    # The token after the prompt's last is drawn, not given.
    count = min(len(following), row.num_prompt_tokens - 1 - start)
    told = []
    for begin in range(0, count, BLOCK_ROWS):
        end = min(count, begin + BLOCK_ROWS)
        logits = to_logits(torch.arange(first + begin, first + end))
        layout.check_token_ids(following[begin:end], logits.shape[1])
        positions = np.arange(start + begin + 1, start + end + 1)
        told.append(entries(logits, positions, following[begin:end], num_top))
    return b"".join(told)
