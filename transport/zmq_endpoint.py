"""An endpoint over ZeroMQ and TCP: one listening ROUTER, and a DEALER per peer and lane.

A link is one-way: its dialler sends frames on it and gets credit back. After a handshake the other
end dials back, so that each end has a link whose monitor tells when the peer is gone. The handshake
proves that both ends know the cluster's token without sending it, and refuses another version in
words. It never interprets a frame; every bound is in `EndpointSettings`.
"""

import asyncio
import hashlib
import hmac
import logging
import secrets
import struct
from collections import deque
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import msgspec
import zmq
from zmq.utils.monitor import parse_monitor_message

from transport.codec import pack, unpack
from transport.endpoint import EndpointStatistics, Lane, Peer, PeerLost, Received
from transport.errors import (
    DecodeError,
    EndpointClosed,
    FrameTooLarge,
    HandshakeRefused,
    PeerGone,
    SendQueueFull,
    Unreachable,
)
from transport.frame import Frame
from transport.zmq_socket import DrivenSocket

_log = logging.getLogger(__name__)

PROTOCOL = 1
HELLO, CHALLENGE, PROOF, WELCOME, REFUSED, FRAME, CREDIT, GOODBYE = (
    bytes([letter]) for letter in b"HCPWRFKB"
)
_CREDIT = struct.Struct("<BIQ")
ZERO_COPY_BYTES = 1 << 16


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointSettings:
    """Bounds and clocks of an endpoint, in bytes and seconds."""

    window_frames: int = 1024
    window_bytes: int = 1 << 28
    queue_frames: int = 4096
    queue_bytes: int = 1 << 29
    max_frame_bytes: int = 1 << 27
    heartbeat_s: float = 0.25
    peer_timeout_s: float = 0.6
    max_peers: int = 1024


class _Hello(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    protocol: int
    version: str
    name: str
    incarnation: int
    address: str
    nonce: bytes
    traits: dict[str, str]


@dataclass(slots=True)
class _OutLane:
    socket: DrivenSocket
    num_frames: int = 0
    num_bytes: int = 0
    queue: "deque[Frame]" = field(default_factory=deque)
    queued_bytes: int = 0
    waiters: "deque[asyncio.Future[None]]" = field(default_factory=deque)


@dataclass(slots=True)
class _Link:
    """Our side of one link: the lanes out, and the handshake while it lasts."""

    address: str
    secret: bytes
    nonce: bytes
    done: "asyncio.Future[Peer]"
    lanes: dict[Lane, _OutLane] = field(default_factory=dict)
    monitor: DrivenSocket | None = None
    peer: Peer | None = None


class ZmqEndpoint:
    """One process's door over TCP; made by `opened`."""

    def __init__(
        self,
        context: "zmq.Context[zmq.Socket[bytes]]",
        router: "zmq.Socket[bytes]",
        identity: Peer,
        *,
        token: bytes,
        version: str,
        traits: Mapping[str, str],
        settings: EndpointSettings,
    ) -> None:
        self._identity = identity
        self._context = context
        self._token = token
        self._version = version
        self._traits = dict(traits)
        self._settings = settings
        self._router = DrivenSocket(router, self._on_inbound)
        self._links: dict[str, _Link] = {}
        self._sessions: dict[bytes, Peer] = {}
        self._challenged: dict[bytes, tuple[_Hello, bytes]] = {}
        self._ready: tuple[deque[Received | PeerLost], ...] = (deque(), deque(), deque())
        self._waiter: asyncio.Future[None] | None = None
        self._is_closed = False
        self._owed: dict[tuple[bytes, int], list[int]] = {}
        self._sent = self._received = self._bytes_sent = self._bytes_received = 0
        self._malformed = self._dropped = 0

    @classmethod
    @asynccontextmanager
    async def opened(
        cls,
        *,
        name: str,
        host: str = "127.0.0.1",
        port: int = 0,
        token: bytes = b"",
        package_version: str = "",
        traits: Mapping[str, str] | None = None,
        settings: EndpointSettings | None = None,
    ) -> "AsyncIterator[ZmqEndpoint]":
        """Listen at `host:port` (0 takes a free port) until the block ends."""
        settings = settings or EndpointSettings()
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        router = _socket(context, zmq.ROUTER, settings)
        router.setsockopt(zmq.ROUTER_MANDATORY, 1)
        router.setsockopt(zmq.ROUTER_HANDOVER, 0)
        router.bind(f"tcp://{host}:{port}")
        address = router.getsockopt_string(zmq.LAST_ENDPOINT)
        identity = Peer(address, name, secrets.randbits(62) | 1)
        try:
            endpoint = cls(
                context,
                router,
                identity,
                token=token,
                version=package_version,
                traits=traits or {},
                settings=settings,
            )
            try:
                yield endpoint
            finally:
                await endpoint.aclose()
        finally:
            context.destroy(linger=200)

    @property
    def identity(self) -> Peer:
        """Ourselves, as our peers know us."""
        return self._identity

    # --- connecting

    async def connect(self, address: str, *, timeout_s: float) -> Peer:
        """Shake hands with the process at `address`, or return the peer already there."""
        if self._is_closed:
            raise EndpointClosed("this endpoint is closed")
        link = self._links.get(address) or self._dial(address)
        try:
            async with asyncio.timeout(timeout_s):
                return await asyncio.shield(link.done)
        except TimeoutError:
            if link.peer is None:
                self._drop(link, None)
            raise Unreachable(f"nobody answered at {address} within {timeout_s:g} s") from None

    def _dial(self, address: str) -> _Link:
        link = _Link(
            address,
            secrets.token_bytes(16),
            secrets.token_bytes(16),
            asyncio.get_running_loop().create_future(),
        )
        link.done.add_done_callback(lambda done: done.cancelled() or done.exception())
        self._links[address] = link
        socket = self._open_lane(link, Lane.CONTROL)
        hello = _Hello(
            PROTOCOL,
            self._version,
            self._identity.name,
            self._identity.incarnation,
            self._identity.address,
            link.nonce,
            self._traits,
        )
        link.monitor = DrivenSocket(
            socket.get_monitor_socket(zmq.EVENT_DISCONNECTED | zmq.EVENT_CLOSED),
            lambda parts: self._on_monitor(link, parts),
        )
        socket.connect(address)
        link.lanes[Lane.CONTROL].socket.send(
            [HELLO, pack(msgspec.to_builtins(hello, builtin_types=(bytes,)))]
        )
        return link

    def _open_lane(self, link: _Link, lane: Lane) -> "zmq.Socket[bytes]":
        socket = _socket(self._context, zmq.DEALER, self._settings)
        socket.setsockopt(zmq.ROUTING_ID, b"L" + bytes([lane]) + link.secret)
        driven = DrivenSocket(socket, lambda parts: self._on_answer(link, lane, parts))
        link.lanes[lane] = _OutLane(driven)
        return socket

    def _on_answer(self, link: _Link, lane: Lane, parts: list[zmq.Frame]) -> None:
        kind = parts[0].bytes
        if kind == CREDIT and link.peer is not None:
            self._on_credit(link, parts[1].bytes)
        elif lane != Lane.CONTROL:
            self._malformed += 1
        elif kind == CHALLENGE and link.peer is None:
            self._on_challenge(link, parts)
        elif kind == WELCOME and link.peer is not None and not link.done.done():
            link.done.set_result(link.peer)
        elif kind == REFUSED and not link.done.done():
            error = HandshakeRefused(parts[1].bytes.decode(errors="replace")[:1024])
            self._drop(link, error)
        elif kind == GOODBYE:
            self._drop(link, PeerGone(f"{link.address} closed"))

    def _on_challenge(self, link: _Link, parts: list[zmq.Frame]) -> None:
        try:
            hello = _hello(parts[1].bytes)
        except DecodeError:
            self._malformed += 1
            return
        reason = self._why_refuse(hello)
        proof = self._proof(b"acceptor", link.nonce, hello.nonce)
        if reason is None and not hmac.compare_digest(proof, parts[2].bytes):
            reason = "it does not know this cluster's token"
        if reason is not None:
            self._drop(link, HandshakeRefused(f"{link.address}: {reason}"))
            return
        link.peer = Peer(link.address, hello.name, hello.incarnation)
        answer = self._proof(b"dialler", hello.nonce, link.nonce)
        link.lanes[Lane.CONTROL].socket.send([PROOF, answer])

    def _proof(self, role: bytes, theirs: bytes, ours: bytes) -> bytes:
        return hmac.digest(self._token, role + theirs + ours, hashlib.sha256)

    def _why_refuse(self, hello: _Hello) -> str | None:
        if hello.protocol != PROTOCOL:
            return f"protocol version is {hello.protocol}, expected {PROTOCOL}"
        if hello.version != self._version:
            return f"package version is {hello.version}, expected {self._version}"
        for key, ours in self._traits.items():
            if (found := hello.traits.get(key, ours)) != ours:
                return f"{key} is {found}, expected {ours}"
        return None

    # --- what comes in

    def _on_inbound(self, parts: list[zmq.Frame]) -> None:
        who = parts[0].bytes
        kind = parts[1].bytes if len(parts) > 1 else b""
        session = b"L\0" + who[2:]
        if kind == FRAME and len(parts) > 2 and session in self._sessions:
            self._on_frame(who, self._sessions[session], parts)
        elif kind == HELLO and len(parts) == 3 and who == session and len(who) == 18:
            self._on_hello(who, parts[2].bytes)
        elif kind == PROOF and len(parts) == 3 and who in self._challenged:
            self._on_proof(who, parts[2].bytes)
        else:
            self._malformed += 1

    def _on_frame(self, who: bytes, peer: Peer, parts: list[zmq.Frame]) -> None:
        lane = Lane(who[1])
        buffers = tuple(part.buffer for part in parts[3:])
        frame = Frame(parts[2].bytes, buffers)
        size = frame.num_bytes
        self._received += 1
        self._bytes_received += size
        self._put(lane, Received(peer, lane, frame, lambda: self._release(who, size)))

    def _on_hello(self, who: bytes, data: bytes) -> None:
        try:
            hello = _hello(data)
        except DecodeError as error:
            self._malformed += 1
            self._answer(who, [REFUSED, str(error).encode()])
            return
        reason = self._why_refuse(hello)
        if (
            reason is None
            and len(self._sessions) + len(self._challenged) >= self._settings.max_peers
        ):
            reason = f"{self._settings.max_peers} peers are connected already"
        if reason is not None:
            self._answer(who, [REFUSED, f"{self._identity.address}: your {reason}".encode()])
            return
        ours = _Hello(
            PROTOCOL,
            self._version,
            self._identity.name,
            self._identity.incarnation,
            self._identity.address,
            secrets.token_bytes(16),
            self._traits,
        )
        self._challenged[who] = (hello, ours.nonce)
        packed = pack(msgspec.to_builtins(ours, builtin_types=(bytes,)))
        self._answer(who, [CHALLENGE, packed, self._proof(b"acceptor", hello.nonce, ours.nonce)])

    def _on_proof(self, who: bytes, proof: bytes) -> None:
        hello, nonce = self._challenged.pop(who)
        if not hmac.compare_digest(proof, self._proof(b"dialler", nonce, hello.nonce)):
            self._answer(who, [REFUSED, b"you do not know this cluster's token"])
            return
        peer = Peer(hello.address, hello.name, hello.incarnation)
        self._sessions[who] = peer
        link = self._links.get(peer.address)
        if link is not None and link.peer is not None and link.peer != peer:
            self._drop(link, PeerGone(f"{peer.address} started anew"))
            link = None
        if link is not None:
            self._answer(who, [WELCOME])
        else:  # whoever gets our welcome can be answered at once
            dialled = self._dial(peer.address)
            dialled.done.add_done_callback(lambda done: self._welcome(who, done))

    def _welcome(self, who: bytes, dialled: "asyncio.Future[Peer]") -> None:
        if not dialled.cancelled() and dialled.exception() is None and not self._is_closed:
            self._answer(who, [WELCOME])

    def _answer(self, who: bytes, parts: list[bytes]) -> None:
        try:
            self._router.send([who, *parts])
        except zmq.ZMQError:
            self._dropped += 1

    def _release(self, who: bytes, size: int) -> None:
        owed = self._owed.setdefault((who, 0), [0, 0])
        owed[0] += 1
        owed[1] += size
        settings = self._settings
        if owed[0] * 4 >= settings.window_frames or owed[1] * 4 >= settings.window_bytes:
            del self._owed[who, 0]
            if not self._is_closed:
                self._answer(who, [CREDIT, _CREDIT.pack(who[1], owed[0], owed[1])])

    # --- what goes out

    def send_nowait(self, peer: Peer, frame: Frame, lane: Lane = Lane.DATA) -> None:
        """Hand a frame over, or queue it where the peer's credit is used up."""
        out = self._lane_to(peer, lane)
        size = frame.num_bytes
        if size > self._settings.max_frame_bytes:
            raise FrameTooLarge(f"{size} bytes, the bound is {self._settings.max_frame_bytes}")
        if not out.queue and self._has_credit(out):
            self._put_out(out, frame, size)
        elif (
            len(out.queue) >= self._settings.queue_frames
            or out.queued_bytes + size > self._settings.queue_bytes
        ):
            raise SendQueueFull(f"{len(out.queue)} frames to {peer.name} wait for credit")
        else:
            out.queue.append(frame)
            out.queued_bytes += size

    async def send(
        self, peer: Peer, frame: Frame, lane: Lane = Lane.DATA, *, timeout_s: float
    ) -> None:
        """As `send_nowait`, but wait for credit first."""
        async with asyncio.timeout(timeout_s):
            while True:
                out = self._lane_to(peer, lane)
                if not out.queue and self._has_credit(out):
                    break
                waiter = asyncio.get_running_loop().create_future()
                out.waiters.append(waiter)
                await waiter
        self.send_nowait(peer, frame, lane)

    def _lane_to(self, peer: Peer, lane: Lane) -> _OutLane:
        link = self._links.get(peer.address)
        if self._is_closed:
            raise EndpointClosed("this endpoint is closed")
        if link is None or link.peer != peer:
            raise PeerGone(f"{peer.name} at {peer.address} is not connected")
        if lane not in link.lanes:
            self._open_lane(link, lane).connect(link.address)
        return link.lanes[lane]

    def _has_credit(self, out: _OutLane) -> bool:
        settings = self._settings
        return out.num_frames < settings.window_frames and out.num_bytes < settings.window_bytes

    def _put_out(self, out: _OutLane, frame: Frame, size: int) -> None:
        out.num_frames += 1
        out.num_bytes += size
        self._sent += 1
        self._bytes_sent += size
        out.socket.send([FRAME, frame.head, *frame.buffers], copy=size < ZERO_COPY_BYTES)

    def _on_credit(self, link: _Link, data: bytes) -> None:
        lane, num_frames, num_bytes = _CREDIT.unpack(data)
        out = link.lanes[Lane(lane)]
        out.num_frames -= num_frames
        out.num_bytes -= num_bytes
        while out.queue and self._has_credit(out):
            frame = out.queue.popleft()
            size = frame.num_bytes
            out.queued_bytes -= size
            self._put_out(out, frame, size)
        while out.waiters and self._has_credit(out):
            _wake(out.waiters.popleft())

    # --- receiving

    async def receive(self) -> Received | PeerLost:
        """Wait for the next frame, lowest lane first, or for the news that a peer is gone."""
        while True:
            for queue in self._ready:
                if queue:
                    return queue.popleft()
            if self._is_closed:
                raise EndpointClosed("this endpoint is closed")
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter

    def _put(self, lane: int, event: Received | PeerLost) -> None:
        self._ready[lane].append(event)
        _wake(self._waiter)

    # --- ends

    def _on_monitor(self, link: _Link, parts: list[zmq.Frame]) -> None:
        event = parse_monitor_message([part.bytes for part in parts])["event"]
        if event == zmq.EVENT_DISCONNECTED and link.peer is not None:
            self._drop(link, PeerGone(f"{link.peer.name} at {link.address}: connection lost"))

    def _drop(self, link: _Link, error: Exception | None) -> None:
        if self._links.get(link.address) is not link:
            return
        del self._links[link.address]
        for out in link.lanes.values():
            out.socket.close()
            for waiter in out.waiters:
                _wake(waiter)
        if link.monitor is not None:
            link.monitor.close()
        if not link.done.done():
            link.done.set_exception(error or Unreachable(f"{link.address} did not answer"))
        elif link.peer is not None and isinstance(error, PeerGone):
            self._sessions = {w: p for w, p in self._sessions.items() if p != link.peer}
            self._put(Lane.BULK, PeerLost(link.peer, error))

    async def aclose(self, *, grace_s: float = 0.5) -> None:
        """Tell the peers goodbye and close."""
        if self._is_closed:
            return
        for who in self._sessions:
            self._answer(who, [GOODBYE])
        self._is_closed = True
        for link in list(self._links.values()):
            self._drop(link, EndpointClosed("this endpoint was closed"))
        self._router.close(int(grace_s * 1000))
        _wake(self._waiter)

    def statistics(self) -> EndpointStatistics:
        """Counters since the endpoint opened."""
        lanes = [out for link in self._links.values() for out in link.lanes.values()]
        return EndpointStatistics(
            num_peers=sum(link.peer is not None for link in self._links.values()),
            num_frames_sent=self._sent,
            num_frames_received=self._received,
            num_bytes_sent=self._bytes_sent,
            num_bytes_received=self._bytes_received,
            num_frames_queued=sum(len(out.queue) for out in lanes),
            num_bytes_queued=sum(out.queued_bytes for out in lanes),
            num_frames_dropped=self._dropped,
            num_malformed=self._malformed,
        )


def _socket(
    context: "zmq.Context[zmq.Socket[bytes]]", kind: int, settings: EndpointSettings
) -> "zmq.Socket[bytes]":
    socket = context.socket(kind)
    for option, value in (
        (zmq.LINGER, 200),
        (zmq.SNDHWM, 4 * settings.window_frames),
        (zmq.RCVHWM, 4 * settings.window_frames),
        (zmq.MAXMSGSIZE, settings.max_frame_bytes),
        (zmq.HEARTBEAT_IVL, int(settings.heartbeat_s * 1000)),
        (zmq.HEARTBEAT_TIMEOUT, int(settings.peer_timeout_s * 1000)),
        (zmq.HEARTBEAT_TTL, int(settings.peer_timeout_s * 1000)),
        (zmq.RECONNECT_IVL, 100),
    ):
        socket.setsockopt(option, value)
    return socket


def _hello(data: bytes) -> _Hello:
    try:
        return msgspec.convert(unpack(data), _Hello, builtin_types=(bytes,))
    except msgspec.ValidationError as error:
        raise DecodeError(f"not a greeting: {error}") from None


def _wake(waiter: "asyncio.Future[None] | None") -> None:
    if waiter is not None and not waiter.done():
        waiter.set_result(None)
