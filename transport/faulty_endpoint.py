"""An endpoint whose links can be cut or slowed on purpose, over any other endpoint.

A cut is what a firewall that drops everything makes of a link: nothing arrives, no connection
closes, and who was connected is lost after `peer_timeout_s` of silence, at both ends. A cut that
ends before that costs nothing but time: what was held goes on in its order. A slow link lets
everything through, later. Only what its owner runs is disturbed: whoever wants a link cut at both
ends orders it at both, but one end is enough to keep every frame from it.

What is held is bounded: frames going out by the queues of the endpoint's own settings, frames that
came in by the credit that their senders have.
"""

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Protocol

from transport.disturbance import UNDISTURBED, Disturbance, pace_towards
from transport.disturbed_way import DisturbedWay
from transport.endpoint import Endpoint, EndpointStatistics, Lane, Peer, PeerLost, Received
from transport.errors import (
    EndpointClosed,
    FrameTooLarge,
    PeerGone,
    Unreachable,
)
from transport.frame import Frame
from transport.inbox import Inbox
from transport.settings import MAX_BUFFERS, EndpointSettings

_log = logging.getLogger(__name__)


class BreakableEndpoint(Endpoint, Protocol):
    """An endpoint that can be told that a peer has fallen silent."""

    def hang_up(self, peer: Peer, reason: str) -> None:
        """Lose a peer now, as after silence; one that is not connected is no error."""
        ...


class FaultyEndpoint:
    """`Endpoint` over another one, whose links its owner can disturb; made by `opened`.

    Args:
        inner: what carries the bytes; nobody else uses it.
        settings: those of `inner`.
    """

    def __init__(self, inner: BreakableEndpoint, settings: EndpointSettings) -> None:
        self._inner = inner
        self._settings = settings
        self._loop = asyncio.get_running_loop()
        self._inbox = Inbox()
        self._closed: EndpointClosed | None = None
        self._disturbances: dict[str, tuple[Disturbance, asyncio.TimerHandle]] = {}
        self._peers: set[Peer] = set()
        self._ways: dict[Peer, DisturbedWay] = {}
        self._held: dict[Peer, deque[Received]] = {}
        self._silences: dict[Peer, asyncio.TimerHandle] = {}
        self._changed = asyncio.Event()
        self._num_dropped = 0
        inner.subscribe(self._on_event)

    @classmethod
    @asynccontextmanager
    async def opened(
        cls, inner: BreakableEndpoint, settings: EndpointSettings | None = None
    ) -> "AsyncIterator[FaultyEndpoint]":
        """Stand before `inner` until the block ends, which closes both."""
        endpoint = cls(inner, settings or EndpointSettings())
        try:
            yield endpoint
        finally:
            await endpoint.aclose()

    # --- disturbing

    @property
    def disturbances(self) -> tuple[Disturbance, ...]:
        """What disturbs the links now; `for_s` is the time that is left of it."""
        now = self._loop.time()
        return tuple(
            replace(disturbance, for_s=left_s)
            for disturbance, timer in self._disturbances.values()
            if (left_s := timer.when() - now) > 0
        )

    def disturb(self, disturbance: Disturbance) -> None:
        """Disturb links from now until the time is over; one of the same name is replaced."""
        if self._closed is not None:
            raise self._closed
        self._forget(disturbance.name)
        timer = self._loop.call_later(disturbance.for_s, self.mend, disturbance.name)
        self._disturbances[disturbance.name] = (disturbance, timer)
        _log.warning("links disturbed name=%s for_s=%g", disturbance.name, disturbance.for_s)
        self._look_again()

    def mend(self, name: str) -> None:
        """End a disturbance; one that is over already is no error."""
        if self._forget(name):
            _log.info("links whole again name=%s", name)
            self._look_again()

    def _forget(self, name: str) -> bool:
        if (known := self._disturbances.pop(name, None)) is None:
            return False
        known[1].cancel()
        return True

    def _is_cut(self, address: str) -> bool:
        # Asked for every frame: nothing is built while nothing is disturbed.
        if not self._disturbances:
            return False
        return pace_towards(address, (d for d, _ in self._disturbances.values())).is_cut

    def _look_again(self) -> None:
        for peer in tuple(self._peers):
            self._look_at(peer)
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def _look_at(self, peer: Peer) -> None:
        """Have everything with a peer go on as the disturbances of now want it."""
        pace = pace_towards(peer.address, (d for d, _ in self._disturbances.values()))
        if pace is not UNDISTURBED and peer not in self._ways:
            self._ways[peer] = DisturbedWay(
                lambda frame, lane: self._send_held(peer, frame, lane), self._settings
            )
        if (way := self._ways.get(peer)) is not None:
            way.change(pace)
        if not pace.is_cut:
            self._hear_again(peer)
        elif peer not in self._silences:
            silence_s = self._settings.peer_timeout_s
            self._silences[peer] = self._loop.call_later(silence_s, self._miss, peer)

    def _hear_again(self, peer: Peer) -> None:
        if (silence := self._silences.pop(peer, None)) is not None:
            silence.cancel()
        for received in self._held.pop(peer, ()):
            self._inbox.put(received)

    def _miss(self, peer: Peer) -> None:
        """Nothing was heard of a peer for too long."""
        self._silences.pop(peer, None)
        if peer in self._peers:
            self._inner.hang_up(peer, f"silent for {self._settings.peer_timeout_s:g} s")

    # --- what comes

    def _on_event(self, event: Received | PeerLost) -> None:
        if isinstance(event, PeerLost):
            self._on_lost(event)
            return
        self._know(event.peer)
        if self._is_cut(event.peer.address):
            self._held.setdefault(event.peer, deque()).append(event)
        else:
            self._inbox.put(event)

    def _know(self, peer: Peer) -> None:
        if peer not in self._peers:
            self._peers.add(peer)
            self._look_at(peer)

    def _on_lost(self, lost: PeerLost) -> None:
        """What was under way between us, in either direction, is lost with it."""
        peer = lost.peer
        self._peers.discard(peer)
        if (silence := self._silences.pop(peer, None)) is not None:
            silence.cancel()
        if (way := self._ways.pop(peer, None)) is not None:
            self._num_dropped += way.end(lost.error)
        for received in self._held.pop(peer, ()):
            received.release()
        self._inbox.lose(peer, lost.error)

    async def receive(self) -> Received | PeerLost:
        """Wait for the next frame, lowest lane first, or for the news that a peer is gone."""
        return await self._inbox.receive()

    def subscribe(self, on_event: Callable[[Received | PeerLost], None]) -> None:
        """Have every event handed over as it comes, in that order, what waits already first."""
        self._inbox.subscribe(on_event)

    # --- what goes

    @property
    def identity(self) -> Peer:
        """Ourselves, as our peers know us."""
        return self._inner.identity

    async def connect(self, address: str, *, timeout_s: float) -> Peer:
        """Shake hands with the process at `address`; while it is cut off, nobody answers there."""
        give_up_at = self._loop.time() + timeout_s
        try:
            async with asyncio.timeout(timeout_s):
                while self._is_cut(address) and not self._is_connected(address):
                    await self._changed.wait()
        except TimeoutError:
            raise Unreachable(f"nobody answered at {address} within {timeout_s:g} s") from None
        left_s = max(give_up_at - self._loop.time(), 0.0)
        peer = await self._inner.connect(address, timeout_s=left_s)
        self._know(peer)
        return peer

    def _is_connected(self, address: str) -> bool:
        return any(peer.address == address for peer in self._peers)

    def send_nowait(self, peer: Peer, frame: Frame, lane: Lane = Lane.DATA) -> None:
        """Hand a frame over, or have it wait for the link."""
        way = self._way_to(peer)
        if way is None:
            self._inner.send_nowait(peer, frame, lane)
        else:
            way.offer(frame, self._checked_size(frame), lane)

    async def send(
        self, peer: Peer, frame: Frame, lane: Lane = Lane.DATA, *, timeout_s: float
    ) -> None:
        """As `send_nowait`, but wait for credit, or for room on the link, first."""
        way = self._way_to(peer)
        if way is None:
            await self._inner.send(peer, frame, lane, timeout_s=timeout_s)
        else:
            await way.offer_waiting(frame, self._checked_size(frame), lane, timeout_s)

    def _way_to(self, peer: Peer) -> DisturbedWay | None:
        """The way that frames to a peer take; None is the straight one."""
        if self._closed is not None:
            raise self._closed
        way = self._ways.get(peer)
        if way is not None and way.is_idle:
            del self._ways[peer]
            return None
        return way

    def _checked_size(self, frame: Frame) -> int:
        bound, num_bytes = self._settings.max_frame_bytes, frame.num_bytes
        if num_bytes > bound:
            raise FrameTooLarge(f"frame: expected at most {bound} bytes, got {num_bytes}")
        if len(frame.buffers) > MAX_BUFFERS:
            raise FrameTooLarge(
                f"frame: expected at most {MAX_BUFFERS} buffers, got {len(frame.buffers)}"
            )
        return num_bytes

    def _send_held(self, peer: Peer, frame: Frame, lane: Lane) -> None:
        try:
            self._inner.send_nowait(peer, frame, lane)
        except FrameTooLarge as error:  # the peer's own bounds are narrower: no lane has holes
            self._inner.hang_up(peer, str(error))
            raise PeerGone(str(error)) from None

    # --- the end

    async def aclose(self, *, grace_s: float = 0.5) -> None:
        """End all disturbances, say goodbye and close; what a cut holds is lost with it."""
        if self._closed is not None:
            return
        closed = self._closed = EndpointClosed("this endpoint was closed")
        for peer, way in self._ways.items():
            if not self._is_cut(peer.address):
                way.change(UNDISTURBED)
        for timer in (*(t for _, t in self._disturbances.values()), *self._silences.values()):
            timer.cancel()
        self._disturbances.clear()
        self._silences.clear()
        try:
            await self._inner.aclose(grace_s=grace_s)
        finally:
            self._end(closed)

    def _end(self, closed: EndpointClosed) -> None:
        for way in self._ways.values():
            self._num_dropped += way.end(closed)
        self._ways.clear()
        self._held.clear()
        self._inbox.close(closed)

    def statistics(self) -> EndpointStatistics:
        """Counters since the endpoint opened; what a disturbance holds is queued."""
        inner = self._inner.statistics()
        ways = self._ways.values()
        return replace(
            inner,
            num_frames_queued=inner.num_frames_queued + sum(way.num_frames for way in ways),
            num_bytes_queued=inner.num_bytes_queued + sum(way.num_bytes for way in ways),
            num_frames_dropped=inner.num_frames_dropped + self._num_dropped,
        )
