"""What a request may expect, learnt from those before it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduling.latency_forecast import MAX_SAMPLES, MIN_SAMPLES, Latency, LatencyForecast


def learnt(fixed_s: float = 0.1, token_s: float = 0.001) -> LatencyForecast:
    forecast = LatencyForecast()
    for number in range(MIN_SAMPLES):
        num_tokens = 100 * (number + 1)
        forecast.prefilled(num_tokens, fixed_s + token_s * num_tokens)
        forecast.decoded(0.02)
    return forecast


def test_nothing_is_forecast_from_few_requests() -> None:
    forecast = LatencyForecast()
    for _ in range(MIN_SAMPLES - 1):
        forecast.prefilled(10, 1.0)
        forecast.decoded(1.0)
    assert forecast.next(10, 0) == Latency(None, None)


@given(fixed_s=st.floats(0, 10), token_s=st.floats(0, 0.1), num_tokens=st.integers(1, 10_000))
def test_what_lies_before_a_request_is_what_it_waits_for(
    fixed_s: float, token_s: float, num_tokens: int
) -> None:
    found = learnt(fixed_s, token_s).next(num_tokens, 0)
    assert found.ttft_s == pytest.approx(fixed_s + token_s * num_tokens, rel=1e-6, abs=1e-6)
    assert found.tpot_s == 0.02


def test_a_turn_comes_as_fast_as_others_end() -> None:
    forecast = learnt(0.0, 0.001)
    assert forecast.next(100, 3).ttft_s is None  # it is not known how fast they end
    for number in range(MIN_SAMPLES):
        forecast.ended(10.0 + 0.5 * number, others_wait=True)
    assert forecast.next(100, 3).ttft_s == pytest.approx(3 * 0.5 + 0.1)


def test_ends_at_an_idle_service_tell_nothing_of_a_full_one() -> None:
    forecast = learnt()
    for number in range(MIN_SAMPLES):
        forecast.ended(100.0 * number, others_wait=False)
    assert forecast.next(100, 1).ttft_s is None


def test_a_forecast_never_falls_with_more_to_read_nor_below_nothing() -> None:
    forecast = LatencyForecast()
    for number in range(MIN_SAMPLES):  # by chance the longer ones were the faster
        forecast.prefilled(1000 * number, 1.0 - 0.1 * number)
    few, many = forecast.next(1, 0).ttft_s, forecast.next(100_000, 0).ttft_s
    assert few is not None
    assert many is not None
    assert many >= few >= 0


def test_what_is_long_past_is_forgotten() -> None:
    forecast = learnt(5.0, 0.0)
    for _ in range(MAX_SAMPLES):
        forecast.prefilled(100, 0.25)
        forecast.decoded(0.5)
    assert forecast.next(100, 0) == Latency(0.25, 0.5)
