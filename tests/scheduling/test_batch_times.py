import numpy as np
import pytest

from scheduling.batch_times import BatchTimes, fit_batch_times, mean_times
from scheduling.errors import Infeasible

TRUTH = BatchTimes(prefill=(0.01, 4e-4, 1e-9), decode=(0.03, 1e-4, 1e-7))


def test_a_profile_gives_back_the_times_it_was_made_of() -> None:
    truth = TRUTH
    prefills = [
        (n * size, n * size**2, truth.prefill_s(n * size, n * size**2))
        for n in (1, 2, 4)
        for size in (64, 512, 2048)
    ]
    decodes = [
        (b, b * context, truth.decode_s(b, b * context))
        for b in (1, 8, 64)
        for context in (100, 1000)
    ]
    found = fit_batch_times(prefills, decodes)
    np.testing.assert_allclose(found.prefill, truth.prefill, rtol=1e-6)
    np.testing.assert_allclose(found.decode, truth.decode, rtol=1e-6)
    assert found.relative_error < 1e-9


def test_no_coefficient_is_fitted_below_zero() -> None:
    rows = [(1.0, 1.0, 3.0), (2.0, 4.0, 2.0), (3.0, 9.0, 1.0), (4.0, 16.0, 0.5)]
    found = fit_batch_times(rows, rows)
    assert min(*found.prefill, *found.decode) >= 0.0
    assert found.relative_error > 0.1


def test_too_small_a_profile_is_refused() -> None:
    rows = [(1.0, 1.0, 1.0)] * 3
    with pytest.raises(Infeasible, match="prefill profile: expected 3 or more rows"):
        fit_batch_times(rows[:2], rows)
    with pytest.raises(Infeasible, match="decode profile"):
        fit_batch_times(rows, [(1.0, 1.0, 0.0)] * 3)


def test_the_mean_of_times_is_that_of_each_coefficient_and_of_none_there_is_none() -> None:
    other = BatchTimes(prefill=(0.03, 0.0, 1e-9), decode=(0.01, 3e-4, 0.0))
    mean = mean_times([TRUTH, other])
    np.testing.assert_allclose(mean.prefill, (0.02, 2e-4, 1e-9))
    np.testing.assert_allclose(mean.decode, (0.02, 2e-4, 5e-8))
    with pytest.raises(ValueError, match="got none"):
        mean_times([])
