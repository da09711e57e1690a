import doctest

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.chaos import outcome
from runtime.chaos.outcome import Outcome, compare, difference

WORDS = st.text("abc ", min_size=1, max_size=12)


def whole(text: str, num_tokens: int | None = None, **fields: object) -> Outcome:
    made = Outcome(0.0, text=text, num_tokens=len(text) if num_tokens is None else num_tokens)
    for name, value in fields.items():
        setattr(made, name, value)
    return made


def test_the_examples_in_the_docstrings_are_right() -> None:
    found = doctest.testmod(outcome)
    assert found.attempted > 0
    assert found.failed == 0


@given(st.text(), st.text())
def test_two_texts_differ_in_some_way_unless_they_are_the_same(a: str, b: str) -> None:
    assert (compare(a, b) == "") == (a == b)


@given(st.text("abc"), WORDS, st.text("abc"))
def test_a_text_that_lacks_a_piece_has_lost_it(before: str, piece: str, after: str) -> None:
    assert compare(before + piece + after, before + after) == "lost"


@given(st.text("abc"), WORDS, st.text("abc"))
def test_a_piece_that_comes_twice_is_repeated(before: str, piece: str, after: str) -> None:
    assert compare(before + piece + after, before + piece + piece + after) == "repeated"


@pytest.mark.parametrize(
    ("expected", "got"), [("abc", "abd"), ("abc", "abxc"), ("abc", "xyz!"), ("abc", "acbx")]
)
def test_what_is_neither_less_nor_twice_is_wrong(expected: str, got: str) -> None:
    assert compare(expected, got) == "wrong"


@pytest.mark.parametrize(
    ("got", "found"),
    [
        (whole("abc"), ""),
        (whole("ac"), "lost"),
        (whole("abbc"), "repeated"),
        (whole("xbc"), "wrong"),
        (whole("abc", 2), "lost"),
        (whole("abc", 4), "repeated"),
        (Outcome(0.0, text="abc"), "wrong"),
        (whole("ab", error="stage 1 was lost"), ""),
        (whole("", error="stage 1 was lost"), ""),
        (whole("ac", error="stage 1 was lost"), "wrong"),
        (whole("abc", earlier=["a", "ab"]), ""),
        (whole("abc", earlier=["a", "ax"]), "wrong"),
    ],
)
def test_a_stream_is_compared_with_an_undisturbed_one(got: Outcome, found: str) -> None:
    assert difference(whole("abc"), got) == found


def test_waits_are_counted_from_the_sending_on() -> None:
    seen = Outcome(10.0)
    for now in (11.0, 14.5, 15.0):
        seen.take_text("a", now)
    seen.take_time(17.0)
    assert seen.gaps_s == [1.0, 3.5, 0.5, 2.0]
    assert (seen.longest_gap_s, seen.num_texts, seen.text) == (3.5, 3, "aaa")


def test_a_request_that_is_sent_again_begins_with_nothing_and_waits_anew() -> None:
    seen = whole("ab", 2, last_at=1.0, error="the connection broke")
    seen.begin_again(30.0)
    seen.take_text("a", 34.0)
    assert (seen.gaps_s, seen.earlier, seen.text) == ([4.0], ["ab"], "a")
    assert (seen.num_tokens, seen.error) == (None, "")


def test_only_comments_of_losses_are_recoveries() -> None:
    seen = Outcome(0.0)
    for comment in ("recovered stage=1 gap_ms=8", "moved pipeline=1"):
        seen.take_comment(comment)
    assert seen.recoveries == ["recovered stage=1 gap_ms=8"]
