"""Whatever bytes come, the codec gives a message that somebody declared or says what is wrong."""

import typing
from typing import Annotated, Any

import msgpack
import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from msgspec import Meta

from actors.kernel.ref import Ref
from actors.messages import ALL_MESSAGES
from transport.codec import MAX_BYTES, MAX_ITEMS, Codec, Message, pack, unpack
from transport.errors import DecodeError

CODEC = Codec(ALL_MESSAGES)


class Point(Message, frozen=True, tag="point"):
    x: Annotated[int, Meta(ge=0, le=100)]
    label: Annotated[str, Meta(max_length=4)]
    data: Annotated[bytes, Meta(max_length=3)] = b""


POINTS = Codec([Point])


# --- every message of the project


def _values(kind: Any) -> st.SearchStrategy[Any]:
    """Values of a field's type, within its bounds."""
    bounds = Meta()
    if typing.get_origin(kind) is Annotated:
        kind, bounds = typing.get_args(kind)
    if typing.get_origin(kind) is tuple:
        first, *others = typing.get_args(kind)
        if others != [...]:
            return st.tuples(_values(first), *map(_values, others))
        most = min(bounds.max_length or 3, 3)
        return st.lists(_values(first), min_size=bounds.min_length or 0, max_size=most).map(tuple)
    if typing.get_origin(kind) is typing.Literal:
        return st.sampled_from(typing.get_args(kind))
    if options := [option for option in typing.get_args(kind) if option is not type(None)]:
        return st.none() | st.one_of([_values(option) for option in options])
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return _messages(kind)
    return _scalars(kind, bounds)


def _scalars(kind: type, bounds: Meta) -> st.SearchStrategy[Any]:
    longest = min(bounds.max_length or 20, 20)
    if kind is bool:
        return st.booleans()
    if kind is bytes:
        return st.binary(min_size=bounds.min_length or 0, max_size=longest)
    if kind is str:
        return st.text(max_size=longest)
    low = bounds.ge if bounds.ge is not None else bounds.gt
    high = bounds.le if bounds.le is not None else bounds.lt
    if kind is int:
        return st.integers(
            int(low) if low is not None else None,
            int(high) - (bounds.le is None) if high is not None else None,
        )
    assert kind is float, f"no values known for {kind}"
    return st.floats(low, high, exclude_min=bounds.gt is not None, allow_nan=False)


def _messages(kind: type[msgspec.Struct]) -> st.SearchStrategy[Any]:
    if kind is Ref:
        return st.builds(Ref, st.text(max_size=9), st.integers(0, 1 << 40), st.text(max_size=9))
    hints = typing.get_type_hints(kind, include_extras=True)
    return st.builds(kind, **{name: _values(hints[name]) for name in kind.__struct_fields__})


ANY_MESSAGE: st.SearchStrategy[Message] = st.one_of([_messages(kind) for kind in ALL_MESSAGES])


@pytest.mark.parametrize("kind", ALL_MESSAGES, ids=lambda kind: kind.__name__)
@given(data=st.data())
def test_every_message_comes_back_as_it_went(kind: type[Message], data: st.DataObject) -> None:
    message = data.draw(_messages(kind))
    assert CODEC.decode(CODEC.encode(message)) == message


@given(ANY_MESSAGE)
def test_plain_msgpack_reads_what_we_write(message: Message) -> None:
    plain = msgpack.unpackb(CODEC.encode(message))
    assert plain[0] == type(message).__struct_config__.tag
    assert len(plain) == 1 + len(message.__struct_fields__)
    assert CODEC.from_plain(plain) == message


@given(ANY_MESSAGE)
def test_we_read_what_plain_msgpack_writes(message: Message) -> None:
    assert (
        CODEC.decode(msgpack.packb(msgspec.to_builtins(message, builtin_types=(bytes,)))) == message
    )


# --- whatever else comes


def _decoded_or_refused(data: bytes) -> None:
    try:
        message = CODEC.decode(data)
    except DecodeError:
        return
    assert isinstance(message, ALL_MESSAGES)


@given(st.binary(max_size=200))
@example(b"")
@example(b"\xc1")
def test_arbitrary_bytes_become_a_message_or_an_error(data: bytes) -> None:
    _decoded_or_refused(data)


@given(st.data())
def test_spoilt_messages_become_a_message_or_an_error(data: st.DataObject) -> None:
    encoded = bytearray(CODEC.encode(data.draw(ANY_MESSAGE)))
    for _ in range(data.draw(st.integers(1, 4))):
        encoded[data.draw(st.integers(0, len(encoded) - 1))] = data.draw(st.integers(0, 255))
    _decoded_or_refused(bytes(encoded))


@given(ANY_MESSAGE, st.data())
def test_truncated_messages_are_refused(message: Message, data: st.DataObject) -> None:
    encoded = CODEC.encode(message)
    end = data.draw(st.integers(0, len(encoded) - 1))
    with pytest.raises(DecodeError, match="not MessagePack within bounds"):
        CODEC.decode(encoded[:end])


@given(ANY_MESSAGE, st.binary(min_size=1, max_size=9))
def test_bytes_behind_a_message_are_refused(message: Message, rest: bytes) -> None:
    with pytest.raises(DecodeError, match="extra data"):
        CODEC.decode(CODEC.encode(message) + rest)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 63), (1 << 64) - 1) | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
)


@given(st.sampled_from(ALL_MESSAGES), st.lists(JSON, max_size=8))
def test_any_fields_behind_a_tag_become_a_message_or_an_error(
    kind: type[Message], fields: list[Any]
) -> None:
    _decoded_or_refused(pack([kind.__struct_config__.tag, *fields]))


# --- what the error says


@pytest.mark.parametrize(
    ("plain", "sentence"),
    [
        (None, "expected a list that begins with a tag, got NoneType"),
        ({"x": 1}, "expected a list that begins with a tag, got dict"),
        ([], "expected a list that begins with a tag, got list"),
        ([7, 1], "expected a list that begins with a tag, got list"),
        (["circle", 1], "unknown message tag 'circle'"),
        (["point", "one", "a"], r"message point: Expected `int`, got `str`.*\[1\]"),
        (["point", True, "a"], "Expected `int`, got `bool`"),
        (["point", 101, "a"], r"Expected `int` <= 100.*\[1\]"),
        (["point", -1, "a"], "Expected `int` >= 0"),
        (["point", 1, b"a"], "Expected `str`, got `bytes`"),
        (["point", 1, "long!"], r"Expected `str` of length <= 4.*\[2\]"),
        (["point", 1, "a", "text"], "Expected `bytes`, got `str`"),
        (["point", 1, "a", b"long"], "Expected `bytes` of length <= 3"),
        (["point", 1], "Expected `array` of at least length 3, got 2"),
        (["point", 1, "a", b"", 5], "message point: Expected `array` of at most length"),
    ],
    ids=repr,
)
def test_error_names_what_was_expected_and_what_came(plain: Any, sentence: str) -> None:
    with pytest.raises(DecodeError, match=sentence):
        POINTS.decode(pack(plain))


def test_error_quotes_no_more_than_the_start_of_an_unknown_tag() -> None:
    with pytest.raises(DecodeError) as caught:
        POINTS.decode(pack(["x" * 100_000]))
    assert len(str(caught.value)) < 100


@pytest.mark.parametrize(
    "data",
    [
        b"\xdd\xff\xff\xff\xff",  # a list of 4 Gi items
        b"\xdf\xff\xff\xff\xff",  # a map of as many
        b"\xdb\xff\xff\xff\xff",  # a text of 4 GiB
        b"\xc6\xff\xff\xff\xff",  # bytes
        b"\xc9\xff\xff\xff\xff\x01",  # an extension
        b"\xdd" + (MAX_ITEMS + 1).to_bytes(4, "big"),
        b"\xde\x04\x01",  # a map of 1025
        b"\x91" * 5000 + b"\xc0",  # lists within lists
        b"\x81\xa1a" * 5000 + b"\xc0",  # maps within maps
        b"\xd4\x01\x00",  # a small extension
        b"\xc7\x00\x01",  # an empty one
        b"\xd6\xff\x00\x00\x00\x00",  # a timestamp
        b"\x81\x90\xc0",  # a map whose key is a list
        b"\x81\x01\xc0",  # or a number
        b"\xa1\xff",  # text that is not UTF-8
    ],
    ids=lambda data: data[:6].hex(),
)
def test_what_is_out_of_bounds_is_refused_before_it_is_built(data: bytes) -> None:
    with pytest.raises(DecodeError, match=r"not MessagePack within bounds: ."):
        unpack(data)


def test_overlong_input_is_refused_unread() -> None:
    with pytest.raises(DecodeError, match=f"at most {MAX_BYTES} bytes, got {MAX_BYTES + 1}"):
        unpack(bytes(MAX_BYTES + 1))


# --- the set of types


def test_two_types_of_one_tag_are_refused() -> None:
    class Other(Message, frozen=True, tag="point"):
        y: int

    with pytest.raises(ValueError, match="Other: expected a string tag of its own, got 'point'"):
        Codec([Point, Other])


def test_type_without_a_tag_is_refused() -> None:
    class Nameless(Message, frozen=True):
        y: int

    with pytest.raises(ValueError, match="Nameless: expected a string tag of its own, got None"):
        Codec([Nameless])


def test_message_of_another_codec_is_unknown() -> None:
    with pytest.raises(DecodeError, match="unknown message tag 'point'"):
        CODEC.decode(POINTS.encode(Point(1, "a")))
