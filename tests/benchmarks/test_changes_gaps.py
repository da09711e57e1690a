"""What is counted against a change: its gaps, not those before it, and every token."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.gaps import Differences, differences, longest_gap, percentile, steady_gaps

WORDS = st.lists(st.sampled_from("abcdef"), max_size=12)


def test_steady_gaps_are_those_that_lie_wholly_between_the_two_moments() -> None:
    streams = [[0.0, 5.0, 6.0, 8.0, 20.0], [4.0, 5.5, 8.5, 9.0]]
    steady = steady_gaps(streams, since=5.0, until=9.0)
    assert (steady.p50_s, steady.p99_s, steady.max_s) == (1.0, 3.0, 3.0)


def test_no_gap_in_the_steady_time_is_an_error_and_not_a_figure() -> None:
    with pytest.raises(ValueError, match="steady"):
        steady_gaps([[0.0, 10.0], [5.0]], since=1.0, until=9.0)


def test_the_longest_gap_counts_if_any_part_of_it_lies_within() -> None:
    before, across, after = [0.0, 9.0], [9.5, 11.5], [13.0, 30.0]
    assert longest_gap([before, across, after], since=10.0, until=12.0) == 2.0
    assert longest_gap([[0.0, 15.0]], since=10.0, until=12.0) == 15.0
    assert longest_gap([before, after, []], since=10.0, until=12.0) == 0.0


@given(st.lists(st.floats(0, 1e6), min_size=1), st.floats(0, 1))
def test_a_percentile_is_the_least_value_that_so_many_do_not_exceed(
    values: list[float], share: float
) -> None:
    found = percentile(values, share)
    assert found in values
    assert sum(value <= found for value in values) >= share * len(values)
    assert sum(value < found for value in values) < max(1.0, share * len(values))


@given(st.lists(WORDS, max_size=4))
def test_streams_that_say_the_same_do_not_differ(streams: list[list[str]]) -> None:
    assert differences(streams, streams).total == 0


@pytest.mark.parametrize(
    ("found", "counted"),
    [
        ("w1 w2 w4", Differences(lost=1)),
        ("w1 w2 w2 w3 w4", Differences(repeated=1)),
        ("w1 w9 w3 w4", Differences(different=1)),
        ("w1", Differences(lost=3)),
        ("w1 w2 w3 w4 w5 w6", Differences(repeated=2)),
        ("", Differences(lost=4)),
    ],
)
def test_tokens_are_told_lost_repeated_or_different(found: str, counted: Differences) -> None:
    assert differences([found.split()], [["w1", "w2", "w3", "w4"]]) == counted
    assert counted.total > 0


@given(WORDS, WORDS)
def test_whatever_is_not_the_same_is_counted(found: list[str], expected: list[str]) -> None:
    counted = differences([found], [expected])
    assert (counted.total == 0) == (found == expected)
    assert len(found) - len(expected) <= counted.repeated + counted.different
    assert len(expected) - len(found) <= counted.lost + counted.different


def test_differences_of_all_streams_are_added_and_a_missing_stream_is_an_error() -> None:
    counted = differences([["a"], ["b", "c"], ["d"]], [["a", "x"], ["b"], ["e"]])
    assert counted == Differences(lost=1, repeated=1, different=1)
    assert (counted + Differences(broken=2)).total == 5
    with pytest.raises(ValueError, match="zip"):
        differences([["a"]], [["a"], ["b"]])
