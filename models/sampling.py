"""The next token of each row of logits.

The one idea: chance is a function, not a state. The random number of a candidate depends only on
the request's seed, the position to be drawn and the candidate, by integer arithmetic that every
device does alike, so a stream continued elsewhere draws what the undisturbed one would have drawn.
A token is drawn as the winner of an exponential race (the Gumbel-max trick): unlike walking down a
cumulated distribution, rounding changes the winner only where the two fastest are within rounding
of each other. Rows never look at one another.

Order and meaning of the filters are vLLM's: temperature, then min-p, then top-k, then top-p over
what is left. Each is a bound on the scaled logit, so candidates of equal logit stay or go together
and nothing hangs on the order in which a sort leaves them.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from models.forward_batch import ForwardBatch

NO_TOKEN = -2
"""Stands where a token was asked for and none may be drawn."""
# Below this a temperature is taken for zero: dividing by it would only overflow.
GREEDY_BELOW = 1e-5


def sample(
    logits: torch.Tensor,
    batch: ForwardBatch,
    eos_token_ids: Sequence[int],
    *,
    shaped: bool = False,
) -> npt.NDArray[np.int32]:
    """Draw the next token of every sequence that asks for one.

    Args:
        logits: one row for each sequence of the batch with `samples`, in order; overwritten.
        batch: whose seeds, positions and filters to use.
        eos_token_ids: what `suppress_eos` forbids.
        shaped: whether tokens were forbidden before, so that none may be left.

    Shapes:
        logits: [R, V] float32. Returns [B] int32, -1 where nothing was asked, and `NO_TOKEN` where
            `shaped` and every token was forbidden.
    """
    asked = np.flatnonzero(batch.samples)
    if eos_token_ids:
        rows = np.flatnonzero(batch.suppress_eos[asked])
        _forbid(logits, rows, eos_token_ids)
    drawn = logits.argmax(-1).cpu().numpy().astype(np.int32)
    hot = np.flatnonzero(batch.temperatures[asked] >= GREEDY_BELOW)
    if len(hot):
        drawn[hot] = _draw(logits, hot, batch, asked[hot])
    if shaped:
        drawn[(logits.amax(-1) == -torch.inf).cpu().numpy()] = NO_TOKEN
    tokens = np.full(batch.num_sequences, -1, np.int32)
    tokens[asked] = drawn
    return tokens


def _forbid(logits: torch.Tensor, rows: npt.NDArray[np.intp], token_ids: Sequence[int]) -> None:
    if len(rows):
        columns = torch.tensor(list(token_ids), device=logits.device)
        logits[torch.from_numpy(rows).to(logits.device)[:, None], columns] = -torch.inf


def _draw(
    logits: torch.Tensor,
    hot: npt.NDArray[np.intp],
    batch: ForwardBatch,
    sequences: npt.NDArray[np.intp],
) -> npt.NDArray[np.int32]:
    """Draw for some rows of the logits; `sequences` says whose they are in the batch."""
    device = logits.device
    rows = logits[torch.from_numpy(hot).to(device)] if len(hot) < len(logits) else logits
    scaled = rows / _column(batch.temperatures[sequences], device)
    _filter(scaled, batch, sequences)
    places = batch.starts[sequences].astype(np.uint64) + batch.lengths[sequences].astype(np.uint64)
    scaled -= _exponentials(batch.seeds[sequences], places, scaled.shape[1], device).log_()
    winners: npt.NDArray[np.int32] = scaled.argmax(-1).cpu().numpy().astype(np.int32)
    return winners


def _filter(scaled: torch.Tensor, batch: ForwardBatch, sequences: npt.NDArray[np.intp]) -> None:
    """Put candidates that a row's filters exclude at minus infinity."""
    min_ps, top_ks = batch.min_ps[sequences], batch.top_ks[sequences]
    top_ps = batch.top_ps[sequences]
    if (min_ps > 0).any():
        _keep(scaled, scaled.amax(-1, keepdim=True) + _column(min_ps, scaled.device).log())
    if (top_ks > 0).any():
        _keep(scaled, _top_k_bound(scaled, top_ks))
    some = np.flatnonzero(top_ps < 1)
    if len(some):
        index = torch.from_numpy(some).to(scaled.device)
        rows = scaled[index]
        _keep(rows, _top_p_bound(rows, top_ps[some]))
        scaled[index] = rows


def _keep(scaled: torch.Tensor, bound: torch.Tensor) -> None:
    scaled.masked_fill_(scaled < bound, -torch.inf)


def _top_k_bound(scaled: torch.Tensor, top_ks: npt.NDArray[np.int32]) -> torch.Tensor:
    """Each row's k-th largest value: [R, 1]; minus infinity for a row that keeps all."""
    vocab_size = scaled.shape[1]
    kept = np.where((top_ks <= 0) | (top_ks > vocab_size), vocab_size, top_ks)
    largest = int(kept[kept < vocab_size].max(initial=1))
    values = scaled.topk(largest, -1).values
    index = torch.from_numpy(np.minimum(kept, largest) - 1).to(scaled.device, torch.int64)[:, None]
    bound = values.gather(1, index)
    return bound.masked_fill(_column(kept == vocab_size, scaled.device), -torch.inf)


def _top_p_bound(scaled: torch.Tensor, top_ps: npt.NDArray[np.float32]) -> torch.Tensor:
    """The smallest value among the fewest candidates whose mass reaches each row's p: [R, 1].

    The mass is summed in float64, so that rounding does not decide who is the last.
    """
    values = _descending(scaled)
    mass = (values - values[:, :1]).exp_().cumsum(-1, dtype=torch.float64)
    wanted = mass[:, -1:] * _column(top_ps.astype(np.float64), scaled.device)
    last = torch.searchsorted(mass, wanted).clamp_(max=values.shape[1] - 1)
    return values.gather(1, last)


def _descending(values: torch.Tensor) -> torch.Tensor:
    if values.device.type == "cpu":
        # Values alone, without their indices, sort thirty times as fast in numpy as in torch.
        return torch.from_numpy(np.sort(-values.numpy(), axis=-1)).neg_()
    return values.sort(-1, descending=True).values


def _exponentials(
    seeds: npt.NDArray[np.uint64],
    places: npt.NDArray[np.uint64],
    vocab_size: int,
    device: torch.device,
) -> torch.Tensor:
    """Exponential variates, one for each candidate, fixed by seed, place and candidate: [R, V].

    A 64-bit scramble of seed and place gives two 32-bit keys; two multiply-xorshift rounds stir
    them with the candidate's number. Small variates decide the race, so it is these that are exact.
    """
    keys = _scramble(_scramble(seeds) + places)
    low, high = (keys & np.uint64(0xFFFFFFFF)), keys >> np.uint64(32)
    words = torch.arange(vocab_size, dtype=torch.int32, device=device)
    words = _round(words * -1640531535, 0x7FEB352D)[None] ^ _signed(low, device)
    words = _round(words, -2073254261) + _signed(high, device)
    words = _round(words, 0x2C1B3C6D) & 0x7FFFFFFF
    uniforms = words.to(torch.float32).mul_(2.0**-31).add_(2.0**-32)
    return uniforms.neg_().log1p_().neg_()


def _round(words: torch.Tensor, factor: int) -> torch.Tensor:
    words = words * factor
    # The shift is arithmetic, so the sign's copies are masked off.
    return words.bitwise_xor_((words >> 16).bitwise_and_(0xFFFF))


def _signed(words: npt.NDArray[np.uint64], device: torch.device) -> torch.Tensor:
    return _column(words.astype(np.uint32).view(np.int32), device)


def _column(values: npt.NDArray[np.generic], device: torch.device) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(values)).to(device)[:, None]


def _scramble(words: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """splitmix64: the increment, then the finalizer."""
    words = words + np.uint64(0x9E3779B97F4A7C15)
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))
