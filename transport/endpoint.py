"""The seam of this package: what every endpoint does, whatever carries its bytes.

An endpoint is one process's door. It listens at its own address, connects to others by theirs,
and carries frames on three lanes: control, data and bulk. A frame never overtakes another of its
lane and peer; nothing is promised between lanes. Every lane is bounded in messages and bytes by
the credit that the receiver grants, and credit returns when the receiver releases what it took: a
slow consumer slows its senders instead of filling memory.

An endpoint never interprets a frame.
"""

import enum
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import msgspec

from transport.errors import PeerGone
from transport.frame import Frame


class Lane(enum.IntEnum):
    """Which queue a frame takes; a lower lane never waits behind a higher one."""

    CONTROL = 0
    DATA = 1
    BULK = 2


class Peer(msgspec.Struct, frozen=True):
    """A process at the other end: its address, its name and which life of it this is."""

    address: str
    name: str
    incarnation: int


class Received(msgspec.Struct, frozen=True):
    """A frame from a peer; call `release` once it is consumed, to return its credit."""

    peer: Peer
    lane: Lane
    frame: Frame
    release: Callable[[], None]


class PeerLost(msgspec.Struct, frozen=True):
    """A peer that was connected is gone; nothing more comes from this incarnation of it."""

    peer: Peer
    error: PeerGone


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointStatistics:
    """Counters since the endpoint opened."""

    num_peers: int
    num_frames_sent: int
    num_frames_received: int
    num_bytes_sent: int
    num_bytes_received: int
    num_frames_queued: int
    num_bytes_queued: int
    num_frames_dropped: int
    num_malformed: int


class Endpoint(Protocol):
    """One process's door to the others.

    `Endpoint`s are opened by their own module's `open` coroutine and closed with `aclose`.
    """

    @property
    def identity(self) -> Peer:
        """Ourselves, as our peers know us."""
        ...

    async def connect(self, address: str, *, timeout_s: float) -> Peer:
        """Shake hands with the process at `address`, or return the peer already connected there.

        Raises:
            Unreachable: nobody answered within `timeout_s`.
            HandshakeRefused: it answered and refused us; the text says why.
        """
        ...

    def send_nowait(self, peer: Peer, frame: Frame, lane: Lane = Lane.DATA) -> None:
        """Hand a frame over, or queue it where the peer's credit is used up.

        Raises:
            PeerGone: this incarnation of the peer is not connected.
            SendQueueFull: the lane's bounded queue is full.
            FrameTooLarge: the frame is over the agreed bounds.
        """
        ...

    async def send(
        self, peer: Peer, frame: Frame, lane: Lane = Lane.DATA, *, timeout_s: float
    ) -> None:
        """As `send_nowait`, but wait for credit first.

        Raises:
            TimeoutError: no credit came within `timeout_s`.
        """
        ...

    async def receive(self) -> Received | PeerLost:
        """Wait for the next frame, lowest lane first, or for the news that a peer is gone.

        One consumer at a time.

        Raises:
            EndpointClosed: this endpoint was closed.
        """
        ...

    def subscribe(self, on_event: Callable[[Received | PeerLost], None]) -> None:
        """Have every event handed over as it comes, in that order, what waits already first.

        It saves a turn of the event loop per frame. From then on `receive` only waits for the end.
        """
        ...

    async def aclose(self, *, grace_s: float = 0.5) -> None:
        """Tell the peers goodbye, deliver what is queued for at most `grace_s`, and close."""
        ...

    def statistics(self) -> EndpointStatistics:
        """Counters since the endpoint opened."""
        ...
