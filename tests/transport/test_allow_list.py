"""The list that admits members and, for a while, strangers."""

from hypothesis import given
from hypothesis import strategies as st

from transport.allow_list import FORGIVEN_AFTER_S, AllowList, Verdict
from transport.security import KEY_BYTES

A, B, C, D = (bytes([number]) * KEY_BYTES for number in range(4))


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def test_strangers_are_admitted_up_to_a_bound_and_members_beyond_it() -> None:
    allowed = AllowList(Clock(), trusted=[A], max_strangers=1)
    allowed.admit(B)
    assert allowed.judge(C) is Verdict.ADMITTED
    assert allowed.judge(D) is Verdict.FULL
    assert [allowed.judge(key) for key in (A, B, C)] == [Verdict.ADMITTED] * 3
    allowed.admit(C)
    assert allowed.judge(D) is Verdict.ADMITTED


def test_a_stranger_that_takes_too_long_gives_up_its_place() -> None:
    clock = Clock()
    allowed = AllowList(clock, max_strangers=1, patience_s=5.0)
    assert allowed.judge(A) is Verdict.ADMITTED
    clock.now_s = 4.9
    assert allowed.judge(B) is Verdict.FULL
    clock.now_s = 5.0
    assert allowed.judge(B) is Verdict.ADMITTED


def test_a_refused_key_stays_out_until_it_is_forgiven() -> None:
    clock = Clock()
    allowed = AllowList(clock, max_strangers=1)
    allowed.judge(A)
    allowed.refuse(A)
    assert allowed.judge(A) is Verdict.REFUSED
    assert allowed.judge(B) is Verdict.ADMITTED
    clock.now_s = FORGIVEN_AFTER_S
    assert allowed.judge(A) is Verdict.ADMITTED


def test_a_members_key_is_not_refused_whatever_comes_with_it() -> None:
    allowed = AllowList(Clock(), trusted=[A])
    allowed.admit(B)
    for key in (A, B):
        allowed.refuse(key)
        assert allowed.judge(key) is Verdict.ADMITTED


def test_a_refused_key_that_proves_itself_after_all_is_a_member() -> None:
    allowed = AllowList(Clock())
    allowed.refuse(A)
    allowed.admit(A)
    assert allowed.judge(A) is Verdict.ADMITTED
    assert allowed.is_member(A)


def test_of_too_many_members_the_one_not_seen_for_longest_is_forgotten() -> None:
    allowed = AllowList(Clock(), trusted=[D], max_members=2)
    for key in (D, A, B):
        allowed.admit(key)
    allowed.judge(A)
    allowed.admit(C)
    assert [allowed.is_member(key) for key in (A, B, C, D)] == [True, False, True, True]


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["judge", "admit", "refuse"]), st.integers(0, 9), st.floats(0, 40)
        )
    )
)
def test_no_list_grows_beyond_its_bound_and_who_is_refused_is_no_member(
    steps: list[tuple[str, int, float]],
) -> None:
    clock = Clock()
    allowed = AllowList(clock, max_members=3, max_strangers=2)
    for what, number, passed_s in steps:
        clock.now_s += passed_s
        key = bytes([number]) * KEY_BYTES
        verdict = getattr(allowed, what)(key)
        assert len(allowed._members) <= 3
        assert len(allowed._strangers) <= 2
        assert len(allowed._refused) <= 3
        assert not set(allowed._members) & (set(allowed._strangers) | set(allowed._refused))
        if what == "judge" and verdict is not Verdict.ADMITTED:
            assert not allowed.is_member(key)
