from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.sampling import sample
from tests.models.driving import make_batch

VOCAB = 37


def _draw(
    logits: torch.Tensor, starts: list[int], eos: tuple[int, ...] = (), **fields: Any
) -> list[int]:
    batch = make_batch([[0]] * len(starts), starts, [[0]] * len(starts), **fields)
    return [int(token) for token in sample(logits.clone(), batch, eos)]


def _many(row: torch.Tensor, count: int, **fields: Any) -> npt.NDArray[np.int64]:
    """How often each candidate is drawn over many positions."""
    drawn = _draw(row.expand(count, -1), list(range(count)), temperatures=1.0, **fields)
    return np.bincount(drawn, minlength=len(row))


def _logits(seed: int, rows: int = 1) -> torch.Tensor:
    return 2 * torch.randn(rows, VOCAB, generator=torch.Generator().manual_seed(seed))


def test_temperature_zero_takes_the_likeliest() -> None:
    logits = _logits(0, 5)
    assert _draw(logits, [1, 2, 3, 4, 5]) == logits.argmax(-1).tolist()
    assert _draw(logits, [1, 2, 3, 4, 5], temperatures=1e-6) == logits.argmax(-1).tolist()


def test_rows_that_do_not_ask_get_minus_one_and_take_no_logits() -> None:
    logits = _logits(1, 2)
    drawn = _draw(logits, [1, 2, 3], samples=[True, False, True])
    assert drawn == [int(logits[0].argmax()), -1, int(logits[1].argmax())]


_ROW = st.fixed_dictionaries(
    {
        "seeds": st.integers(0, 2**64 - 1),
        "temperatures": st.sampled_from([0.0, 0.3, 1.0, 3.0]),
        "top_ps": st.sampled_from([1.0, 0.9, 0.3]),
        "min_ps": st.sampled_from([0.0, 0.1]),
        "top_ks": st.sampled_from([0, 1, 5, 1000]),
        "suppress_eos": st.booleans(),
    }
)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(_ROW, st.integers(0, 10**6)), min_size=2, max_size=6))
def test_alone_or_in_any_batch_a_row_draws_the_same(rows: list[tuple[Any, int]]) -> None:
    logits = _logits(7, len(rows))
    starts = [start for _, start in rows]
    fields = {name: [row[name] for row, _ in rows] for name in rows[0][0]}
    together = _draw(logits, starts, (3, 4), **fields)
    alone = [
        _draw(logits[i : i + 1], [start], (3, 4), **row)[0] for i, (row, start) in enumerate(rows)
    ]
    assert together == alone


def test_draws_follow_the_distribution() -> None:
    row, count = _logits(3)[0], 20000
    observed = _many(row, count, seeds=99)
    expected = row.softmax(-1).double().numpy() * count
    common = expected > 5
    chi_square = float((((observed - expected) ** 2) / expected)[common].sum())
    degrees = int(common.sum())
    assert chi_square < degrees + 5 * (2 * degrees) ** 0.5


def test_neighbouring_positions_and_seeds_draw_independently() -> None:
    flat, count = torch.zeros(2), 20000
    by_place = _draw(flat.expand(count, -1), list(range(count)), temperatures=1.0, seeds=5)
    by_seed = _draw(flat.expand(count, -1), [7] * count, temperatures=1.0, seeds=range(count))
    for bits in (np.array(by_place), np.array(by_seed)):
        assert abs(bits.mean() - 0.5) < 5 * 0.5 / count**0.5
        agreement = float((bits[1:] == bits[:-1]).mean())
        assert abs(agreement - 0.5) < 5 * 0.5 / count**0.5


def test_rounding_of_the_logits_hardly_ever_changes_a_draw() -> None:
    logits = _logits(11).expand(20000, -1)
    noise = 1e-5 * torch.randn(logits.shape, generator=torch.Generator().manual_seed(0))
    starts = list(range(len(logits)))
    before = np.array(_draw(logits, starts, temperatures=1.0))
    after = np.array(_draw(logits + noise, starts, temperatures=1.0))
    assert (before != after).mean() < 1e-3


def _kept_by_vllm(row: torch.Tensor, min_p: float, top_k: int, top_p: float) -> set[int]:
    """The filters written out one by one over a sorted list."""
    probs = row.double().softmax(-1)
    kept = [i for i in range(len(row)) if probs[i] >= min_p * probs.max()]
    kept.sort(key=lambda i: -float(row[i]))
    kept = kept[: top_k or len(kept)]
    mass, total, result = 0.0, float(probs[kept].sum()), set()
    for index in kept:
        result.add(index)
        mass += float(probs[index]) / total
        if mass >= top_p:
            break
    return result


@pytest.mark.parametrize("min_p", [0.0, 0.05, 1.0])
@pytest.mark.parametrize("top_k", [0, 1, 4, VOCAB, VOCAB + 5])
@pytest.mark.parametrize("top_p", [1.0, 0.95, 0.5, 1e-6])
def test_filters_keep_what_they_name_and_all_of_it(min_p: float, top_k: int, top_p: float) -> None:
    row = _logits(13)[0] / 2
    kept = _kept_by_vllm(row, min_p, top_k, top_p)
    drawn = _many(row, 3000, min_ps=min_p, top_ks=top_k, top_ps=top_p)
    assert set(np.flatnonzero(drawn)) <= kept
    likely = {i for i in kept if float(row.softmax(-1)[i]) > 0.005}
    assert likely <= set(np.flatnonzero(drawn))


def test_top_p_over_a_flat_vocabulary_keeps_as_many_as_it_takes() -> None:
    row = torch.linspace(0, 1e-3, 5000)
    drawn = _many(row, 4000, top_ps=0.5)
    kept = np.flatnonzero(drawn)
    assert kept.min() >= 2490
    assert len(kept) > 1500


def test_equal_candidates_at_the_bound_stay_together() -> None:
    row = torch.tensor([1.0, 2.0, 1.0, 1.0, -5.0])
    assert set(np.flatnonzero(_many(row, 500, top_ks=2))) == {0, 1, 2, 3}


def test_suppressed_end_tokens_are_never_drawn_hot_or_cold() -> None:
    row = torch.zeros(VOCAB)
    row[5], row[6] = 50.0, 40.0
    assert _draw(row[None], [3], (5, 6)) == [5]
    assert _draw(row[None], [3], (5,), suppress_eos=True) == [6]
    drawn = _many(row, 200, eos=(5, 6), suppress_eos=True)
    assert drawn[5] == drawn[6] == 0


def test_the_stream_of_a_seed_is_what_it_always_was() -> None:
    drawn = _draw(torch.zeros(12, 1000), list(range(12)), temperatures=1.0, seeds=2026)
    assert drawn == [791, 8, 71, 338, 644, 712, 326, 24, 135, 720, 842, 569]
