import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.stage_counters import StageCounters


def test_a_stage_without_steps_is_idle() -> None:
    counters = StageCounters(10.0)
    assert (counters.busy_s(15.0), counters.idle_s(15.0)) == (0.0, 5.0)


def test_steps_that_overlap_are_busy_once_and_resident_each() -> None:
    counters = StageCounters(0.0)
    counters.step_began(1.0)
    counters.step_began(2.0)
    assert counters.busy_s(2.5) == 1.5
    counters.step_ended(1.0, 3.0)
    counters.step_ended(2.0, 5.0)
    assert counters.busy_s(10.0) == 4.0
    assert counters.idle_s(10.0) == 6.0
    assert counters.resident_s == 5.0
    assert (counters.num_steps, counters.num_queued) == (2, 0)


@given(st.lists(st.tuples(st.floats(0, 10), st.booleans()), max_size=60))
def test_busy_and_idle_always_make_up_the_whole_time(moves: list[tuple[float, bool]]) -> None:
    counters, now, begun = StageCounters(0.0), 0.0, list[float]()
    for pause_s, begins in moves:
        now += pause_s
        if begins:
            begun.append(now)
            counters.step_began(now)
        elif begun:
            counters.step_ended(begun.pop(0), now)
        assert counters.busy_s(now) + counters.idle_s(now) == pytest.approx(now)
        assert counters.num_queued == len(begun)
