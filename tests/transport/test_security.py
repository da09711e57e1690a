"""Keys, and the addresses that carry them."""

import contextlib

import pytest
import zmq
from hypothesis import given
from hypothesis import strategies as st

from transport.errors import CannotListen, DecodeError
from transport.security import (
    KEY_BYTES,
    KEY_CHARACTERS,
    KeyPair,
    key_text,
    read_key,
    split_key,
    with_key,
)

ANY_KEY = st.binary(min_size=KEY_BYTES, max_size=KEY_BYTES)


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
