"""Supervision decides purely: what follows an end, how often, and how soon."""

import random
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.kernel.supervision import (
    ESCALATE,
    Restart,
    RestartBudget,
    Strategy,
    Supervision,
    Verdict,
    judge,
)

supervisions = st.builds(
    Supervision,
    max_restarts=st.integers(0, 5),
    period_s=st.integers(1, 20).map(float),
    backoff_s=st.floats(0, 2),
    max_backoff_s=st.floats(0, 10),
)
gaps = st.lists(st.integers(0, 8).map(float), max_size=40)


@settings(deadline=None)
@given(supervisions, gaps)
def test_restarts_are_granted_while_fewer_than_the_limit_lie_in_the_period(
    supervision: Supervision, gaps: list[float]
) -> None:
    budget, rng = RestartBudget(supervision), random.Random(0)
    now, granted = 0.0, list[float]()
    for gap in gaps:
        now += gap
        recent = [time for time in granted if now - time < supervision.period_s]
        delay_s = budget.spend(now, rng)
        assert (delay_s is not None) is (len(recent) < supervision.max_restarts)
        if delay_s is not None:
            granted.append(now)


@settings(deadline=None)
@given(supervisions, st.integers(0, 2**32))
def test_backoff_doubles_up_to_its_limit_less_a_random_half(
    supervision: Supervision, seed: int
) -> None:
    budget, rng = RestartBudget(supervision), random.Random(seed)
    for number in range(supervision.max_restarts):
        full = min(supervision.backoff_s * 2**number, supervision.max_backoff_s)
        delay_s = budget.spend(0.0, rng)
        assert delay_s is not None
        assert full / 2 <= delay_s <= full


def test_what_failed_together_returns_apart() -> None:
    rng = random.Random(0)
    delays = sorted(RestartBudget(Supervision()).spend(0.0, rng) or 0.0 for _ in range(20))
    assert all(earlier < later for earlier, later in pairwise(delays))


@pytest.mark.parametrize(
    ("restart", "failed", "verdict"),
    [
        (Restart.PERMANENT, True, Verdict.START_AGAIN),
        (Restart.PERMANENT, False, Verdict.START_AGAIN),
        (Restart.TRANSIENT, True, Verdict.START_AGAIN),
        (Restart.TRANSIENT, False, Verdict.LET_END),
        (Restart.TEMPORARY, True, Verdict.LET_END),
        (Restart.TEMPORARY, False, Verdict.LET_END),
    ],
)
@pytest.mark.parametrize("strategy", [Strategy.ONE_FOR_ONE, Strategy.REST_FOR_ONE])
def test_restart_says_after_which_ends_an_actor_starts_again(
    strategy: Strategy, restart: Restart, failed: bool, verdict: Verdict
) -> None:
    supervision = Supervision(strategy=strategy, restart=restart)
    assert judge(supervision, failed=failed) is verdict


def test_escalation_hands_failures_up_and_lets_the_rest_end() -> None:
    assert judge(ESCALATE, failed=True) is Verdict.ESCALATE
    assert judge(ESCALATE, failed=False) is Verdict.LET_END
