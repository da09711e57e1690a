"""Penalties, biases and forbidden tokens: what is done to logits before a token is drawn.

In vLLM's order: what may not be drawn, then biases, then penalties. Each is a function of a row's
parameters and tokens alone. A frequency or presence penalty counts generated tokens, a repetition
penalty (Keskar et al. 2019, CTRL, section 4.1) those of the prompt as well.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from models.forward_batch import ForwardBatch
from models.grammar import GrammarMasks
from models.sampling_extras import RowExtras

Places = list[tuple[int, RowExtras]]
"""Rows of the logits, and whose they are."""
Index = tuple[torch.Tensor, torch.Tensor]
"""Rows and tokens of single logits."""
OfTokens = tuple[int, npt.NDArray[np.int32], npt.NDArray[np.float64]]
"""A row of the logits, some tokens, and a number for each."""


def shape(
    logits: torch.Tensor, places: Places, batch: ForwardBatch, grammars: GrammarMasks
) -> None:
    """Shape some rows of the logits in place.

    Shapes:
        logits: [R, V] float32.
    """
    for index, row in places:
        _forbid(logits[index], row, batch, grammars)
    _add_biases(logits, places)
    _penalize_repetition(logits, places)
    _penalize_counts(logits, places)


def _forbid(
    logits: torch.Tensor, row: RowExtras, batch: ForwardBatch, grammars: GrammarMasks
) -> None:
    wanted, num_tokens = row.wanted, len(logits)
    if wanted.grammar:
        seed = int(batch.seeds[row.row])
        mask = grammars.allowed(wanted.grammar, seed, row.output_ids)
        _keep(logits, mask[:num_tokens])
    if wanted.allowed_ids:
        mask = np.zeros(num_tokens, np.bool_)
        mask[_known(wanted.allowed_ids, num_tokens)] = True
        _keep(logits, mask)
    if wanted.early_ids and batch.suppress_eos[row.row]:
        ids = _known(wanted.early_ids, num_tokens)
        logits[torch.from_numpy(ids).to(logits.device)] = -torch.inf


def _keep(logits: torch.Tensor, mask: npt.NDArray[np.bool_]) -> None:
    logits.masked_fill_(torch.from_numpy(~mask).to(logits.device), -torch.inf)


def _known(ids: Sequence[int], num_tokens: int) -> npt.NDArray[np.int64]:
    """Those that the model can draw: a tokenizer may know more."""
    found = np.asarray(ids, np.int64)
    return found[(found >= 0) & (found < num_tokens)]


def _add_biases(logits: torch.Tensor, places: Places) -> None:
    biased = [
        (index, token, value)
        for index, row in places
        for token, value in row.wanted.bias
        if token < logits.shape[1]
    ]
    if biased:
        rows, tokens, values = zip(*biased, strict=True)
        at = _index(rows, tokens, logits.device)
        logits[at] += torch.tensor(values, dtype=torch.float32, device=logits.device)


def _penalize_repetition(logits: torch.Tensor, places: Places) -> None:
    found = [
        (index, ids, np.full(len(ids), row.wanted.repetition_penalty))
        for index, row in places
        if row.wanted.repetition_penalty != 1
        and len(ids := np.union1d(row.prompt_ids, row.output_ids))
    ]
    if found:
        at, factors = _laid_out(found, logits)
        values = logits[at]
        logits[at] = torch.where(values > 0, values / factors, values * factors)


def _penalize_counts(logits: torch.Tensor, places: Places) -> None:
    found: list[OfTokens] = []
    for index, row in places:
        wanted = row.wanted
        if wanted.frequency_penalty or wanted.presence_penalty:
            ids, counts = np.unique(row.output_ids, return_counts=True)
            taken = counts * np.float64(wanted.frequency_penalty) + wanted.presence_penalty
            found.append((index, ids, taken))
    if found:
        at, taken_off = _laid_out(found, logits)
        logits[at] -= taken_off


def _laid_out(found: Sequence[OfTokens], logits: torch.Tensor) -> tuple[Index, torch.Tensor]:
    """All rows' tokens as one index, and their numbers; tokens that no row has are left out."""
    rows = np.concatenate([np.full(len(ids), index, np.int64) for index, ids, _ in found])
    tokens = np.concatenate([ids for _, ids, _ in found]).astype(np.int64)
    numbers = np.concatenate([numbers for _, _, numbers in found]).astype(np.float32)
    known = tokens < logits.shape[1]
    at = _index(rows[known], tokens[known], logits.device)
    return at, torch.from_numpy(numbers[known]).to(logits.device)


def _index(
    rows: Sequence[int] | npt.NDArray[np.int64],
    tokens: Sequence[int] | npt.NDArray[np.int64],
    device: torch.device,
) -> Index:
    return (
        torch.as_tensor(np.asarray(rows, np.int64), device=device),
        torch.as_tensor(np.asarray(tokens, np.int64), device=device),
    )
