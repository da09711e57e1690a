"""What all endpoints share, whatever carries their bytes.

Out goes a frame through the send window of its peer and lane, in it comes through the inbox. How
a peer is dialled, known and lost is each endpoint's own.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Protocol

from transport.counters import Counters
from transport.credit import SendWindow, wait_sent
from transport.endpoint import Lane, Peer, PeerLost, Received
from transport.errors import EndpointClosed, PeerGone
from transport.frame import Frame
from transport.handshake import Introduction
from transport.inbox import Inbox


class WayOut(Protocol):
    """A way to one peer."""

    def window(self, frame: Frame, num_bytes: int, lane: Lane) -> SendWindow:
        """The send window for a frame; raises `FrameTooLarge` where the peer would refuse it."""
        ...


class SharedEndpoint(ABC):
    """Base of the endpoints; see `transport.endpoint.Endpoint` for what it promises."""

    def __init__(self, introduction: Introduction) -> None:
        self._introduction = introduction
        self._inbox = Inbox()
        self._counters = Counters()
        self._closed: EndpointClosed | None = None

    @abstractmethod
    def _find_link(self, peer: Peer) -> WayOut | None:
        """The link to this incarnation of a peer, if it is connected."""

    @property
    def identity(self) -> Peer:
        """Ourselves, as our peers know us."""
        return self._introduction.identity

    def send_nowait(self, peer: Peer, frame: Frame, lane: Lane = Lane.DATA) -> None:
        """Hand a frame over, or queue it where the peer's credit is used up."""
        num_bytes = frame.num_bytes
        self._link_to(peer).window(frame, num_bytes, lane).offer(frame, num_bytes)

    async def send(
        self, peer: Peer, frame: Frame, lane: Lane = Lane.DATA, *, timeout_s: float
    ) -> None:
        """As `send_nowait`, but wait for credit first."""
        num_bytes = frame.num_bytes
        window = self._link_to(peer).window(frame, num_bytes, lane)
        waiting = window.offer_waiting(frame, num_bytes)
        if waiting is not None:
            await wait_sent(window, waiting, timeout_s)

    def _link_to(self, peer: Peer) -> WayOut:
        if self._closed is not None:
            raise self._closed
        link = self._find_link(peer)
        if link is None:
            raise PeerGone(f"{peer.name} at {peer.address} is not connected")
        return link

    async def receive(self) -> Received | PeerLost:
        """Wait for the next frame, lowest lane first, or for the news that a peer is gone."""
        return await self._inbox.receive()

    def subscribe(self, on_event: Callable[[Received | PeerLost], None]) -> None:
        """Have every event handed over as it comes, in that order, what waits already first."""
        self._inbox.subscribe(on_event)
