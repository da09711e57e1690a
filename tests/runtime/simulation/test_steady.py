"""The rate under a steady load: neither filling nor draining counts."""

import pytest

from runtime.simulation.client import Outcome
from runtime.simulation.load import Arrival
from runtime.simulation.steady import steady_tokens_per_s


def outcome(first_at: float | None, last_at: float, num_tokens: int) -> Outcome:
    arrival = Arrival(0.0, 1, max(1, num_tokens))
    return Outcome(
        number=0, arrival=arrival, first_at=first_at, last_at=last_at, num_tokens=num_tokens
    )


def test_only_the_second_half_of_the_arrivals_time_counts() -> None:
    outcomes = [
        outcome(100.0, 105.0, 50),  # all before
        outcome(103.0, 107.0, 40),  # half of it
        outcome(106.0, 116.0, 100),  # the last part is after the last arrival
        outcome(108.0, 108.0, 1),  # a single token
        outcome(None, 100.0, 0),  # never began
    ]
    assert steady_tokens_per_s(outcomes, 100.0, 10.0) == pytest.approx((20 + 40 + 1) / 5)


def test_a_load_without_duration_has_no_rate() -> None:
    assert steady_tokens_per_s([outcome(0.0, 1.0, 5)], 0.0, 0.0) == 0.0
