"""Keys, the addresses that carry them, and the list that admits them."""

import contextlib

import pytest
import zmq
from hypothesis import given
from hypothesis import strategies as st

from transport.errors import CannotListen, DecodeError
from transport.security import (
    FORGIVEN_AFTER_S,
    KEY_BYTES,
    KEY_CHARACTERS,
    AllowList,
    KeyPair,
    Verdict,
    key_text,
    read_key,
    split_key,
    with_key,
)

ANY_KEY = st.binary(min_size=KEY_BYTES, max_size=KEY_BYTES)
A, B, C, D = (bytes([number]) * KEY_BYTES for number in range(4))


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@given(key=ANY_KEY, place=st.sampled_from(["10.0.0.5:7000", "[fd00::2]:1", "box:65535"]))
def test_address_with_a_key_is_split_into_both_and_ends_in_its_port(key: bytes, place: str) -> None:
    address = with_key(f"tcp://{place}", key)
    assert split_key(address) == (f"tcp://{place}", key)
    assert address.rpartition(":")[2] == place.rpartition(":")[2]
    assert len(key_text(key)) == KEY_CHARACTERS


def test_address_without_a_key_is_left_as_it_is() -> None:
    assert split_key("tcp://127.0.0.1:7") == ("tcp://127.0.0.1:7", None)


@given(text=st.one_of(st.text(max_size=60), st.from_regex(r"[A-Za-z0-9_-]{43}", fullmatch=True)))
def test_text_is_a_key_only_as_it_was_written(text: str) -> None:
    with contextlib.suppress(DecodeError):
        assert key_text(read_key(text)) == text


@pytest.mark.parametrize("text", ["", "x", "é" * 43, "_" * 43, "A" * 42, "A" * 44, "A" * 42 + "="])
def test_address_with_something_else_than_a_key_is_refused(text: str) -> None:
    with pytest.raises(DecodeError, match="expected 43 characters"):
        split_key(f"tcp://{text}@127.0.0.1:7")


def test_a_pair_is_known_by_its_secret_and_does_not_show_it() -> None:
    pair = KeyPair.fresh()
    assert KeyPair.of_secret(pair.secret) == pair
    assert KeyPair.fresh() != pair
    assert repr(pair.secret) not in repr(pair)
    with pytest.raises(ValueError, match="expected 32 bytes, got 3"):
        KeyPair.of_secret(b"abc")


def test_no_keys_are_made_where_libzmq_cannot_encrypt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zmq, "has", lambda capability: False)
    with pytest.raises(CannotListen, match="built without CURVE"):
        KeyPair.fresh()


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
    assert allowed.num_refused == 1
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
