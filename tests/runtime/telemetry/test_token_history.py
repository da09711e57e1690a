from hypothesis import given
from hypothesis import strategies as st

from runtime.telemetry.token_history import TokenHistory
from tests.runtime.gateway.guarded import Clock


def test_a_second_is_told_when_it_is_over_and_once() -> None:
    clock = Clock(10.2)
    history = TokenHistory(clock)
    history.add(3)
    history.add(4)
    assert history.after(-1) == []
    clock.now = 11.0
    assert history.after(-1) == [(10, 7)]
    assert history.after(10) == []


def test_what_is_older_than_the_history_is_forgotten() -> None:
    clock = Clock(0.0)
    history = TokenHistory(clock, num_seconds=5)
    history.add(1)
    clock.now = 5.5
    assert history.after(-1) == [(0, 1)]
    clock.now = 6.5
    assert history.after(-1) == []


@given(st.lists(st.tuples(st.floats(0, 3), st.integers(1, 9)), max_size=40))
def test_every_token_is_counted_once_over_all_readings(batches: list[tuple[float, int]]) -> None:
    clock = Clock(0.0)
    history = TokenHistory(clock)
    total, last, sum_of_all = 0, -1, 0
    for step_s, num_tokens in batches:
        clock.now += step_s
        history.add(num_tokens)
        sum_of_all += num_tokens
        total += sum(count for _, count in history.after(last))
        last = int(clock.now) - 1
    clock.now += 1
    total += sum(count for _, count in history.after(last))
    assert total == sum_of_all
