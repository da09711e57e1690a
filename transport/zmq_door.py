"""What comes in: the one listening ROUTER, who may speak on it, and the credit they have.

A stranger says hello, is challenged and proves itself within the handshake's time, or is
forgotten. Whoever proved itself is a visitor, and its frames come in; anything else is counted and
dropped.
"""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass

import zmq

from transport.counters import Counters
from transport.credit import ReceiveWindow
from transport.endpoint import Lane, Peer, Received
from transport.errors import DecodeError
from transport.frame import Frame
from transport.handshake import DIALLER, WRONG_TOKEN, Hello, Introduction, read_hello
from transport.settings import MAX_BUFFERS
from transport.zmq_guard import Guard
from transport.zmq_link import challenge
from transport.zmq_socket import DrivenSocket, Parts
from transport.zmq_wire import Letter, lane_and_secret, letter, pack_credit, routing_id

_log = logging.getLogger(__name__)

_FRAME = letter(Letter.FRAME)


@dataclass(slots=True, eq=False)
class Stranger:
    """Somebody who said hello and has not proved itself yet."""

    hello: Hello
    their_hello: bytes
    our_hello: bytes
    key: bytes | None
    expiry: asyncio.TimerHandle


@dataclass(slots=True, eq=False)
class Visitor:
    """A peer's link to us, whose frames we take."""

    peer: Peer
    secret: bytes
    key: bytes | None = None
    num_goodbyes: int = 0


@dataclass(slots=True, eq=False)
class OpenLane:
    """One lane of a visitor's link, from its first frame on."""

    visitor: Visitor
    lane: Lane
    window: ReceiveWindow


@dataclass(frozen=True, slots=True)
class DoorEvents:
    """Whom the door tells of what happens at it."""

    on_visitor: Callable[[Visitor], None]
    on_frame: Callable[[Received], None]
    on_goodbye: Callable[[Visitor], None]
    on_misconduct: Callable[[Visitor, str], None]


class Door:
    """The listening side of an endpoint."""

    def __init__(
        self,
        router: "zmq.Socket[bytes]",
        introduction: Introduction,
        guard: Guard,
        counters: Counters,
        events: DoorEvents,
    ) -> None:
        self._introduction = introduction
        self._guard = guard
        self._settings = introduction.settings
        self._counters = counters
        self._events = events
        self._strangers: dict[bytes, Stranger] = {}
        self._visitors: dict[bytes, Visitor] = {}
        self._open_lanes: dict[bytes, OpenLane] = {}
        self._router = DrivenSocket(router, self._on_message)

    def welcome(self, visitor: Visitor) -> None:
        """Tell a visitor that its frames will be answered."""
        self._answer(visitor.secret, letter(Letter.WELCOME))

    def refuse(self, visitor: Visitor, reason: str) -> None:
        """Tell a visitor that was not welcomed yet why it cannot be."""
        self._forget(visitor)
        self._answer(visitor.secret, letter(Letter.REFUSED, reason.encode()))

    def show_out(self, peer: Peer, reason: str) -> bool:
        """Take nothing more from a peer, and tell it why; whether it was a visitor."""
        gone = [visitor for visitor in self._visitors.values() if visitor.peer == peer]
        for visitor in gone:
            self._forget(visitor)
            self._answer(visitor.secret, letter(Letter.GOODBYE, reason.encode()))
        return bool(gone)

    def _forget(self, visitor: Visitor) -> None:
        self._visitors.pop(visitor.secret, None)
        for lane in Lane:
            self._open_lanes.pop(routing_id(lane, visitor.secret), None)

    def drain(self) -> None:
        """Take what has come in already."""
        self._router.drain()

    def close(self) -> None:
        """Stop listening."""
        for stranger in self._strangers.values():
            stranger.expiry.cancel()
        self._strangers.clear()
        self._visitors.clear()
        self._open_lanes.clear()
        self._router.close()

    def _answer(self, secret: bytes, data: bytes, lane: Lane = Lane.CONTROL) -> None:
        try:
            self._router.send([routing_id(lane, secret), data])
        except zmq.ZMQError:  # its connection is gone: there is nobody to tell
            _log.debug("an answer found no connection kind=%s", chr(data[0]))

    # --- what comes in

    def _on_message(self, parts: Parts) -> None:
        who = parts[0].bytes
        data = parts[1].bytes if len(parts) > 1 else b""
        try:
            if data[:1] == _FRAME and (opened := self._open_lanes.get(who)) is not None:
                self._on_frame(opened, data, parts)
                return
            key = self._guard.key_of(parts[-1])
            if data[:1] == _FRAME:
                self._on_frame(self._open_lane(who, key), data, parts)
            else:
                self._on_letter(who, key, data, len(parts))
        except DecodeError as error:
            self._counters.num_malformed += 1
            self._guard.on_misconduct(self._guard.key_of(parts[-1]))
            _log.debug("dropped what is no message: %s", error)

    def _on_frame(self, opened: OpenLane, data: bytes, parts: Parts) -> None:
        frame = Frame(data[1:], tuple([part.buffer for part in parts[2:]]))
        num_bytes = frame.num_bytes
        release = opened.window.take(num_bytes)
        if release is None:
            self._break_off(opened.visitor, "it sent more than its credit")
        elif num_bytes > self._settings.max_frame_bytes or len(frame.buffers) > MAX_BUFFERS:
            self._break_off(opened.visitor, "it sent a frame over the agreed bounds")
        else:
            self._counters.count_received(num_bytes)
            self._events.on_frame(Received(opened.visitor.peer, opened.lane, frame, release))

    def _break_off(self, visitor: Visitor, reason: str) -> None:
        self._events.on_misconduct(visitor, reason)
        raise DecodeError(f"{visitor.peer.name}: {reason}")

    def _open_lane(self, who: bytes, key: bytes | None) -> OpenLane:
        lane, secret = lane_and_secret(who)
        visitor = self._visitors.get(secret)
        if visitor is None or visitor.key != key:
            raise DecodeError("a frame of somebody unknown")

        def give_back(num_frames: int, num_bytes: int) -> None:
            if who in self._open_lanes:
                self._answer(
                    secret, letter(Letter.CREDIT, pack_credit(num_frames, num_bytes)), lane
                )

        settings = self._settings
        window = ReceiveWindow(
            give_back, num_frames=settings.window_frames, num_bytes=settings.window_bytes
        )
        opened = self._open_lanes[who] = OpenLane(visitor, lane, window)
        return opened

    def _on_letter(self, who: bytes, key: bytes | None, data: bytes, num_parts: int) -> None:
        lane, secret = lane_and_secret(who)
        kind, body = (data[0], data[1:]) if data and num_parts == 2 else (0, b"")
        if kind == Letter.GOODBYE and (visitor := self._visitors.get(secret)) is not None:
            self._on_goodbye(visitor, body)
        elif lane != Lane.CONTROL:
            raise DecodeError(f"unexpected letter {kind} on lane {lane.name}")
        elif kind == Letter.HELLO and secret not in self._visitors:
            self._on_hello(secret, key, body)
        elif kind == Letter.PROOF and (stranger := self._strangers.pop(secret, None)) is not None:
            self._on_proof(secret, stranger, body)
        else:
            raise DecodeError(f"unexpected letter {kind}")

    def _on_goodbye(self, visitor: Visitor, body: bytes) -> None:
        visitor.num_goodbyes += 1
        if body and visitor.num_goodbyes >= body[0]:
            self._events.on_goodbye(visitor)

    def _on_hello(self, secret: bytes, key: bytes | None, their_hello: bytes) -> None:
        if secret in self._strangers:
            raise DecodeError("a second hello")
        try:
            hello = read_hello(their_hello)
        except DecodeError as error:
            self._answer(secret, letter(Letter.REFUSED, self._sentence(str(error))))
            raise
        reason = self._introduction.why_refuse(hello)
        reason = reason or self._guard.why_refuse(hello.address, key)
        if len(self._strangers) + len(self._visitors) >= self._settings.max_peers:
            reason = f"{self._settings.max_peers} processes are connected here already"
        if reason is not None:
            self._answer(secret, letter(Letter.REFUSED, self._sentence(reason)))
            return
        our_hello = self._introduction.hello()
        self._strangers[secret] = Stranger(
            hello,
            their_hello,
            our_hello,
            key,
            asyncio.get_running_loop().call_later(
                self._settings.handshake_timeout_s, self._strangers.pop, secret, None
            ),
        )
        self._answer(secret, challenge(self._introduction, their_hello, our_hello))

    def _on_proof(self, secret: bytes, stranger: Stranger, proof: bytes) -> None:
        stranger.expiry.cancel()
        introduction = self._introduction
        if introduction.is_proof(proof, DIALLER, stranger.their_hello, stranger.our_hello):
            self._guard.on_proven(stranger.key)
            visitor = self._visitors[secret] = Visitor(stranger.hello.peer, secret, stranger.key)
            self._events.on_visitor(visitor)
        else:
            self._guard.on_misconduct(stranger.key)
            self._answer(secret, letter(Letter.REFUSED, self._sentence(WRONG_TOKEN)))

    def _sentence(self, reason: str) -> bytes:
        return f"{self._introduction.identity.address} refused us: {reason}".encode()
