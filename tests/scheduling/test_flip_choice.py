"""Flips pay for themselves, and load that alternates does not make pipelines flap."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduling.phases.flip_choice import (
    FlipCost,
    FlipJudge,
    FlipPolicy,
    Gain,
    cost_of,
    gain_of,
)

ANY_GAIN = FlipPolicy(min_gain=0.0, confidence=2.0)


def a_cost(late: float) -> FlipCost:
    return FlipCost(num_flips=1, seconds=1.0, late_requests=late)


def flips_of(losses: list[float], cost: float, policy: FlipPolicy = ANY_GAIN) -> tuple[int, float]:
    """How often a judge flips, and what is lost in all; `losses` are state 0's beyond state 1's."""
    judge, state, num_flips, lost = FlipJudge(policy), 0, 0, 0.0
    judge.look(0.0, Gain(part=0.0), 1.0, a_cost(cost))
    for at, loss in enumerate(losses, start=1):
        lost += max(0.0, loss) if state == 0 else max(0.0, -loss)
        gain = Gain(part=loss if state == 0 else -loss)
        if judge.look(float(at), gain, 1.0, a_cost(cost)).is_due:
            judge.flipped()
            state, num_flips, lost = 1 - state, num_flips + 1, lost + cost
    return num_flips, lost


def best_loss(losses: list[float], cost: float) -> float:
    """What the best sequence of flips loses that knows all that comes."""
    here, there = 0.0, cost
    for loss in losses:
        here, there = here + max(0.0, loss), there + max(0.0, -loss)
        here, there = min(here, there + cost), min(there, here + cost)
    return min(here, there)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.floats(-1, 1), max_size=60), st.floats(0.5, 20))
def test_no_more_than_three_times_of_what_was_possible_is_lost(
    losses: list[float], cost: float
) -> None:
    _, lost = flips_of(losses, cost)
    assert lost <= 3 * best_loss(losses, cost) + 2 * cost + len(losses) * 1e-9 + 2


@pytest.mark.parametrize("period", [1, 3, 9])
def test_load_that_alternates_faster_than_a_flip_pays_flips_nothing(period: int) -> None:
    losses = [0.5 if at // period % 2 == 0 else -0.5 for at in range(400)]
    num_flips, _ = flips_of(losses, cost=10.0)
    assert num_flips == 0


def test_load_that_stays_flips_once() -> None:
    num_flips, lost = flips_of([0.5] * 200, cost=10.0)
    assert num_flips == 1
    assert lost <= 3 * 10.0 + 1


def test_load_that_alternates_slowly_flips_once_a_turn() -> None:
    losses = [0.5 if at // 100 % 2 == 0 else -0.5 for at in range(600)]
    num_flips, _ = flips_of(losses, cost=10.0)
    assert num_flips == 6


def test_noise_around_nothing_flips_nothing() -> None:
    rng = random.Random(0)
    judge = FlipJudge()
    for at in range(2000):
        gain = Gain(part=rng.gauss(0.0, 0.03), error=0.03)
        assert not judge.look(float(at), gain, 10.0, a_cost(3.0)).is_due


def test_a_gain_below_the_least_is_refused_with_its_numbers() -> None:
    judge = FlipJudge(FlipPolicy(min_gain=0.05))
    for at in range(100):
        verdict = judge.look(float(at), Gain(part=0.04), 10.0, a_cost(1.0))
        assert not verdict.is_due
    assert "+4.0% of the requests" in verdict.reason
    assert "less than 5.0%" in verdict.reason


def test_a_silence_counts_no_longer_than_a_step() -> None:
    judge = FlipJudge(FlipPolicy(max_step_s=5.0))
    judge.look(0.0, Gain(part=0.5), 1.0, a_cost(10.0))
    verdict = judge.look(1e6, Gain(part=0.5), 1.0, a_cost(10.0))
    assert verdict.lost == pytest.approx(-10.0 + 2.5)
    assert "flipping 1 pipelines costs 10.0" in verdict.reason


def test_a_gain_seen_on_parts_that_differ_is_unsure() -> None:
    assert gain_of(0.1, [0.125, 0.125, 0.125]).error == 0.0
    assert gain_of(0.1, [0.0, 0.2]).error == pytest.approx(0.1)
    assert gain_of(0.1, [0.1]).at_least(2.0) == -float("inf")


def test_a_flip_costs_its_pipelines_share_of_what_comes_meanwhile() -> None:
    for at_once, seconds in ((1, 4.0), (2, 2.0)):
        cost = cost_of(
            ("both", "both", "both", "both"),
            ("prefill", "both", "decode", "both"),
            rate=8.0,
            hand_off_s=2.0,
            at_once=at_once,
        )
        assert (cost.num_flips, cost.seconds, cost.late_requests) == (2, seconds, 8.0)
    assert cost_of(("both",), ("both",), rate=8.0).late_requests == 0.0
    with pytest.raises(ValueError, match="expected 4 phases and 1 or more at once, got 1 and 1"):
        cost_of(("both",) * 4, ("both",), rate=8.0)


def test_a_policy_that_makes_no_sense_is_refused() -> None:
    with pytest.raises(ValueError, match="expected confidence of 0 or more, got -1"):
        FlipPolicy(confidence=-1)
