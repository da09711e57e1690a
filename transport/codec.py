"""Typed messages on the wire: MessagePack outside, closed records inside.

A message is its tag followed by its fields, in order; the tags form a closed set that the codec is
built from, so bytes can only ever become a record that somebody declared. msgspec reads bytes
straight into records, and checks every type and length before it makes anything of that length.
What it refuses is read again as plain data, by the `msgpack` package and under bounds of our own,
only to say what is wrong with it.
"""

from collections.abc import Iterable
from typing import Any, NoReturn, Union

import msgpack
import msgspec

from transport.errors import DecodeError

MAX_BYTES = 1 << 27
"""Bytes of one encoded message; buffers travel beside it and are bounded by the endpoint."""

MAX_ITEMS = 1 << 21
"""Items of one array or map."""

_ENCODER = msgspec.msgpack.Encoder()


class Message(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Base of every message; a subclass names its tag: `class Ping(Message, tag="ping")`."""


class Codec:
    """Encodes and decodes the messages of a closed set of types."""

    def __init__(self, types: Iterable[type[Message]]) -> None:
        self._types: dict[str, type[Message]] = {}
        for kind in types:
            tag = kind.__struct_config__.tag
            if not isinstance(tag, str) or tag in self._types:
                raise ValueError(f"{kind.__name__}: expected a string tag of its own, got {tag!r}")
            msgspec.msgpack.Decoder(kind)  # refuses bounds that could never be checked
            self._types[tag] = kind
        self._decoder: msgspec.msgpack.Decoder[Message] = msgspec.msgpack.Decoder(
            Union[tuple(self._types.values())]  # noqa: UP007  of as many as there are
        )

    def encode(self, message: Message) -> bytes:
        """The MessagePack bytes of a message."""
        return pack(message)

    def decode(self, data: bytes | msgspec.Raw) -> Message:
        """The message that some bytes hold.

        Raises:
            DecodeError: they hold no message of our set, or one out of bounds.
        """
        try:
            return self._decoder.decode(data)
        except (msgspec.DecodeError, ValueError, RecursionError) as error:
            self._refuse(bytes(data), error)

    def _refuse(self, data: bytes, error: Exception) -> NoReturn:
        self.from_plain(unpack(data))
        raise DecodeError(f"not a message: {str(error) or type(error).__name__}")

    def from_plain(self, plain: Any) -> Message:
        """The message that plain data holds; raises DecodeError as `decode` does."""
        if not isinstance(plain, list) or not plain or not isinstance(plain[0], str):
            raise DecodeError(f"expected a list that begins with a tag, got {type(plain).__name__}")
        kind = self._types.get(plain[0])
        if kind is None:
            raise DecodeError(f"unknown message tag {plain[0][:64]!r}")
        try:
            return msgspec.convert(plain, kind, builtin_types=(bytes,))
        except msgspec.ValidationError as error:
            raise DecodeError(f"message {plain[0]}: {error}") from None


def pack(plain: Any) -> bytes:
    """MessagePack bytes of plain data, or of a message."""
    return _ENCODER.encode(plain)


def unpack(data: bytes) -> Any:
    """Plain data from MessagePack bytes, under bounds and without extension types.

    Raises:
        DecodeError: the bytes are malformed, truncated, too long or nested too deep.
    """
    if len(data) > MAX_BYTES:
        raise DecodeError(f"expected at most {MAX_BYTES} bytes, got {len(data)}")
    try:
        return msgpack.unpackb(
            data,
            raw=False,
            strict_map_key=True,
            max_array_len=MAX_ITEMS,
            max_map_len=1024,
            max_str_len=1 << 20,
            max_bin_len=MAX_BYTES,
            max_ext_len=0,
            ext_hook=_refuse_extension,
        )
    except (ValueError, msgpack.UnpackException, RecursionError) as error:
        raise DecodeError(
            f"not MessagePack within bounds: {str(error) or type(error).__name__}"
        ) from None


def _refuse_extension(code: int, data: bytes) -> Any:
    raise ValueError(f"expected no extension types, got type {code}")
