import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.gateway import quotas
from runtime.gateway.keys import Quota
from runtime.gateway.quotas import Meter, Meters, duration


def test_without_bounds_nothing_is_refused_and_nothing_shown() -> None:
    meter = Meter(Quota(), 0.0)
    assert all(meter.enter(0.0) is None for _ in range(1000))
    meter.tokens.take(1e9, 0.0)
    assert meter.enter(0.0) is None
    assert meter.headers(0.0) == {}


def test_requests_beyond_a_minutes_are_refused_until_there_is_one_again() -> None:
    meter = Meter(Quota(requests_per_minute=6), 0.0)
    assert [meter.enter(0.0) is None for _ in range(7)] == [True] * 6 + [False]
    refusal = meter.enter(4.0)
    assert refusal is not None
    assert refusal.code == "rate_limit_exceeded"
    assert refusal.retry_after_s == pytest.approx(6.0)
    assert meter.enter(10.0) is None
    assert meter.enter(10.0) is not None


def test_tokens_are_owed_and_paid_for_by_waiting() -> None:
    meter = Meter(Quota(tokens_per_minute=60), 0.0)
    assert meter.enter(0.0) is None
    meter.tokens.take(90, 0.0)
    refusal = meter.enter(0.0)
    assert refusal is not None
    assert refusal.retry_after_s == pytest.approx(31.0)
    assert meter.enter(31.0) is None


def test_requests_at_a_time_are_counted_until_they_leave() -> None:
    meter = Meter(Quota(max_concurrent=2), 0.0)
    assert meter.enter(0.0) is None
    assert meter.enter(0.0) is None
    refusal = meter.enter(0.0)
    assert refusal is not None
    assert refusal.code == "concurrency_limit_exceeded"
    meter.leave()
    assert meter.enter(0.0) is None


def test_the_headers_are_openais() -> None:
    meter = Meter(Quota(requests_per_minute=60, tokens_per_minute=600), 0.0)
    assert meter.enter(0.0) is None
    meter.tokens.take(100, 0.0)
    assert meter.headers(0.0) == {
        "x-ratelimit-limit-requests": "60",
        "x-ratelimit-remaining-requests": "59",
        "x-ratelimit-reset-requests": "1s",
        "x-ratelimit-limit-tokens": "600",
        "x-ratelimit-remaining-tokens": "500",
        "x-ratelimit-reset-tokens": "10s",
    }


def test_another_quota_holds_at_once_and_what_is_under_way_stays_counted() -> None:
    meters = Meters(Quota())
    meter = meters.of("a", Quota(max_concurrent=1), 0.0)
    assert meter.enter(0.0) is None
    changed = meters.of("a", Quota(max_concurrent=2), 1.0)
    assert changed is meter
    assert changed.enter(1.0) is None
    assert changed.enter(1.0) is not None


def test_a_key_without_a_quota_has_the_configured_one_of_its_own() -> None:
    meters = Meters(Quota(requests_per_minute=1))
    assert meters.of("a", None, 0.0).enter(0.0) is None
    assert meters.of("b", None, 0.0).enter(0.0) is None
    assert meters.of("a", None, 0.0).enter(0.0) is not None


def test_callers_beyond_a_bound_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quotas, "MAX_METERS", 3)
    meters = Meters(Quota(requests_per_minute=1))
    first = meters.of("0", None, 0.0)
    for number in range(1, 4):
        meters.of(str(number), None, 0.0)
    assert meters.of("0", None, 0.0) is not first


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0s"), (0.02, "20ms"), (1, "1s"), (59.9996, "1m0s"), (360, "6m0s")]
)
def test_a_time_is_written_as_openai_does(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@given(st.lists(st.tuples(st.floats(0, 30), st.integers(0, 100)), max_size=50), st.integers(1, 600))
def test_no_more_is_let_in_than_the_quota_fills_up(
    steps: list[tuple[float, int]], per_minute: int
) -> None:
    meter, now, let_in = Meter(Quota(requests_per_minute=per_minute), 0.0), 0.0, 0
    for pause_s, num_tries in steps:
        now += pause_s
        let_in += sum(meter.enter(now) is None for _ in range(num_tries))
    assert let_in <= per_minute + now * per_minute / 60 + 1e-6
