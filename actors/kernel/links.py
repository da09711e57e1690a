"""The way to other processes: dialled on first use, queued for until there, gone when it is lost.

Nothing here waits for a peer but the dialling itself: frames for a process that is still being
dialled stand in a bounded queue and keep their order. A process that was lost is not dialled again
for refs to that life of it, only for those to a later one; `connect` forgets that it was lost.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, Protocol, TypeAlias

from actors.kernel.ref import ANY, Ref
from transport.endpoint import Endpoint, Lane, Peer
from transport.errors import PeerGone, SendQueueFull, TransportError, Unreachable
from transport.frame import Frame

_log = logging.getLogger(__name__)

DIAL_TIMEOUT_S = 5.0
MAX_QUEUED_FRAMES = 1024
MAX_QUEUED_BYTES = 1 << 26
MAX_REMEMBERED_LOSSES = 4096


StartsTask: TypeAlias = Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]]
"""Runs a coroutine beside the others of a system, and ends it with them."""


class Outstanding(Protocol):
    """What a frame was sent for: told to which peer it went, or why it could not go."""

    peer: Peer | None

    @property
    def is_over(self) -> bool:
        """Whether nobody is interested any more, so that the frame need not go."""
        ...

    def fail(self, error: Exception) -> None:
        """The frame was not delivered."""
        ...


class _Link:
    """One address: the peer there, or the frames that wait for it."""

    __slots__ = ("num_bytes", "peer", "waiting")

    def __init__(self) -> None:
        self.peer: Peer | None = None
        self.num_bytes = 0
        self.waiting: deque[tuple[Ref, Frame, Lane, Outstanding]] = deque()


class Links:
    """All peers of this process by address."""

    def __init__(self, endpoint: Endpoint, start_task: StartsTask) -> None:
        self._endpoint = endpoint
        self._start_task = start_task
        self._links: dict[str, _Link] = {}
        self._lost: dict[str, int] = {}
        self._dials: dict[asyncio.Task[None], None] = {}
        self._is_closed = False

    async def connect(self, address: str, timeout_s: float) -> Peer:
        """Connect to a process, or find it connected; raises as `Endpoint.connect` does."""
        peer = await self._endpoint.connect(address, timeout_s=timeout_s)
        self._adopt_both(address, peer)
        return peer

    def send(self, ref: Ref, frame: Frame, lane: Lane, outstanding: Outstanding) -> None:
        """Send a frame to an actor's process, now or as soon as it is connected.

        Raises:
            Unreachable: that life of the process is gone.
            SendQueueFull: too much waits for it already.
            FrameTooLarge: the frame is over the agreed bounds.
        """
        link = self._links.get(ref.address)
        if link is None or not _may_lead_to(link, ref):
            link = self._dial(ref)
        if link.peer is None:
            self._queue(link, ref, frame, lane, outstanding)
        else:
            self._send_now(link.peer, frame, lane, outstanding)

    def _send_now(self, peer: Peer, frame: Frame, lane: Lane, outstanding: Outstanding) -> None:
        try:
            self._endpoint.send_nowait(peer, frame, lane)
        except PeerGone as gone:
            self.lose(peer)  # its loss may have been told before we knew it: it is not told again
            raise Unreachable(f"{peer.name} at {peer.address} is gone: {gone}") from gone
        outstanding.peer = peer

    def _queue(
        self, link: _Link, ref: Ref, frame: Frame, lane: Lane, outstanding: Outstanding
    ) -> None:
        num_bytes = link.num_bytes + frame.num_bytes
        if len(link.waiting) >= MAX_QUEUED_FRAMES or num_bytes > MAX_QUEUED_BYTES:
            raise SendQueueFull(f"{len(link.waiting)} frames wait for {ref.address} to connect")
        link.num_bytes = num_bytes
        link.waiting.append((ref, frame, lane, outstanding))

    # --- dialling

    def _dial(self, ref: Ref) -> _Link:
        """Dial an address; also where it is connected, but not to the life that a ref names."""
        if self._lost.get(ref.address) == ref.incarnation != ANY:
            raise Unreachable(f"the process of {ref} was lost")
        if self._is_closed:
            raise Unreachable(f"{ref} cannot be reached: this actor system has stopped")
        link = self._links[ref.address] = _Link()
        dial = self._start_task(self._dialled(ref.address, link))
        self._dials[dial] = None
        dial.add_done_callback(self._dials.pop)
        return link

    async def _dialled(self, address: str, link: _Link) -> None:
        try:
            peer = await self._endpoint.connect(address, timeout_s=DIAL_TIMEOUT_S)
        except TransportError as error:
            if self._links.get(address) is link and link.peer is None:
                del self._links[address]
                self._give_up(link, error)
        else:
            self._adopt_both(address, peer)

    def _give_up(self, link: _Link, error: TransportError) -> None:
        for ref, _, _, outstanding in link.waiting:
            outstanding.fail(Unreachable(f"{ref} cannot be reached: {error}"))

    def heard_from(self, peer: Peer) -> None:
        """Take a peer that connected to us as the one at its address, if we know no other there."""
        link = self._links.get(peer.address)
        if link is None or link.peer is None:
            self._adopt(peer.address, peer)

    def _adopt_both(self, address: str, peer: Peer) -> None:
        """Know a peer by the address it was dialled at and by the one it calls itself."""
        self._adopt(peer.address, peer)
        if address != peer.address:
            self._adopt(address, peer)

    def _adopt(self, address: str, peer: Peer) -> None:
        if self._lost.get(address) == peer.incarnation:
            del self._lost[address]
        link = self._links.setdefault(address, _Link())
        if link.peer != peer:
            _log.debug("peer connected address=%s incarnation=%d", address, peer.incarnation)
        link.peer = peer
        waiting, link.waiting, link.num_bytes = link.waiting, deque(), 0
        for ref, frame, lane, outstanding in waiting:
            self._send_waiting(peer, ref, frame, lane, outstanding)

    def _send_waiting(
        self, peer: Peer, ref: Ref, frame: Frame, lane: Lane, outstanding: Outstanding
    ) -> None:
        if outstanding.is_over:
            return
        if ref.incarnation not in (ANY, peer.incarnation):
            lives = f"{peer.incarnation} lives there now"
            outstanding.fail(Unreachable(f"{ref} is of a process that is gone; {lives}"))
            return
        try:
            self._send_now(peer, frame, lane, outstanding)
        except TransportError as error:
            outstanding.fail(error)

    # --- losing

    def close(self) -> None:
        """Dial nobody any more."""
        self._is_closed = True
        for dial in self._dials:
            dial.cancel()

    def lose(self, peer: Peer) -> None:
        """Forget a peer that is gone, and remember that it is."""
        for address in [a for a, link in self._links.items() if link.peer == peer]:
            del self._links[address]
        self._lost[peer.address] = peer.incarnation
        if len(self._lost) > MAX_REMEMBERED_LOSSES:
            del self._lost[next(iter(self._lost))]


def _may_lead_to(link: _Link, ref: Ref) -> bool:
    return link.peer is None or ref.incarnation in (ANY, link.peer.incarnation)
