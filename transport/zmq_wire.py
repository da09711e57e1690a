"""What the two ends of a link say to each other, part by part.

The first part of a message is one letter and the body of that letter; a frame's buffers follow as
parts of their own. Every lane of a link is a connection whose routing id names the lane and the
link's secret, so a lane cannot be guessed by who was not there when it was opened.
"""

import enum
import struct

from transport.endpoint import Lane
from transport.errors import DecodeError

SECRET_BYTES = 16
ZERO_COPY_BYTES = 1 << 16
"""Below this size ZeroMQ copies a buffer anyway."""


class Letter(enum.IntEnum):
    """What a message is."""

    HELLO = ord("H")
    CHALLENGE = ord("C")
    PROOF = ord("P")
    WELCOME = ord("W")
    REFUSED = ord("R")
    FRAME = ord("F")
    CREDIT = ord("K")
    GOODBYE = ord("B")


_CREDIT = struct.Struct("<IQ")


def routing_id(lane: Lane, secret: bytes) -> bytes:
    """The name under which the acceptor sees one lane of a link."""
    return bytes([lane + 1]) + secret


def lane_and_secret(who: bytes) -> tuple[Lane, bytes]:
    """What a routing id says; raises `DecodeError` where it is none of ours."""
    if len(who) != 1 + SECRET_BYTES or not 1 <= who[0] <= len(Lane):
        raise DecodeError(f"not the routing id of a lane: {who[:8].hex()}")
    return Lane(who[0] - 1), who[1:]


def letter(kind: Letter, body: bytes = b"") -> bytes:
    """The first part of a message."""
    return bytes([kind]) + body


def pack_credit(num_frames: int, num_bytes: int) -> bytes:
    """The body of `CREDIT`."""
    return _CREDIT.pack(num_frames, num_bytes)


def read_credit(body: bytes) -> tuple[int, int]:
    """The frames and bytes that a `CREDIT` gives back."""
    try:
        num_frames, num_bytes = _CREDIT.unpack(body)
    except struct.error as error:
        raise DecodeError(f"credit: {error}") from None
    return num_frames, num_bytes


def pack_pair(first: bytes, second: bytes) -> bytes:
    """Two byte strings as one body."""
    return struct.pack("<I", len(first)) + first + second


def read_pair(body: bytes) -> tuple[bytes, bytes]:
    """The two byte strings of a body."""
    if len(body) < 4 or (size := int.from_bytes(body[:4], "little")) > len(body) - 4:
        raise DecodeError("challenge: too short")
    return body[4 : 4 + size], body[4 + size :]
