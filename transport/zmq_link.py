"""Our way to one peer: the handshake that opens it, a DEALER for each lane, and the credit on it.

A link carries frames one way, from its dialler; what comes back on it is credit and goodbye. A
connection of it that breaks, once the peer is known, ends the whole link: ZeroMQ would dial again
by itself, and what was under way would be missing in the middle of a lane.
"""

import asyncio
import secrets
from collections.abc import Callable

import zmq

from transport.counters import Counters
from transport.credit import SendWindow
from transport.endpoint import Lane, Peer
from transport.errors import (
    DecodeError,
    FrameTooLarge,
    HandshakeRefused,
    PeerGone,
    TransportError,
)
from transport.frame import Frame
from transport.handshake import ACCEPTOR, DIALLER, WRONG_TOKEN, Introduction, read_hello
from transport.settings import MAX_BUFFERS
from transport.zmq_guard import Guard
from transport.zmq_socket import Context, DrivenSocket, Parts, new_socket, watch_connection
from transport.zmq_wire import (
    SECRET_BYTES,
    ZERO_COPY_BYTES,
    Letter,
    letter,
    pack_pair,
    read_credit,
    read_pair,
    routing_id,
)

REDIAL_S = 0.1
_FRAME = letter(Letter.FRAME)


class _Goodbye(Frame, frozen=True):
    """The letter that ends a lane; it waits its turn among the frames and is none itself."""


class Link:
    """One dialled link.

    `known` is done once the peer proved that it is of our cluster: frames may be sent, and wait.
    `opened` is done once the peer welcomed us: frames go out as its credit allows.
    `trouble` is what the last try failed of, for whoever waits in vain.

    Args:
        address: whom to dial.
        context: where sockets are made.
        introduction: who we are.
        guard: what makes its sockets safe.
        counters: where what goes out is counted.
        claim: asked before we prove ourselves to a peer: whether this link is to be its only one.
        on_lost: called once when the link was lost or refused, to close it.
    """

    def __init__(
        self,
        address: str,
        context: Context,
        introduction: Introduction,
        guard: Guard,
        counters: Counters,
        *,
        claim: Callable[["Link", Peer], bool],
        on_lost: Callable[["Link", TransportError], None],
    ) -> None:
        loop = asyncio.get_running_loop()
        self.address = address
        self.num_waiting = 0
        self.trouble = ""
        self.known: asyncio.Future[Peer] = loop.create_future()
        self.opened: asyncio.Future[Peer] = loop.create_future()
        self._context = context
        self._introduction = introduction
        self._guard = guard
        self._counters = counters
        self._claim = claim
        self._on_lost = on_lost
        self._windows = {lane: self._new_window(lane) for lane in Lane}
        self._lanes: dict[Lane, DrivenSocket] = {}
        self._monitors: list[DrivenSocket] = []
        self._redial: asyncio.TimerHandle | None = None
        self._is_closed = False
        self._num_failures = 0
        self._max_frame_bytes = introduction.settings.max_frame_bytes
        self._dial()

    @property
    def peer(self) -> Peer | None:
        """Who is at the other end, once that is proven."""
        known = self.known
        return known.result() if known.done() and known.exception() is None else None

    @property
    def windows(self) -> tuple[SendWindow, ...]:
        """The send window of each lane."""
        return tuple(self._windows.values())

    def window(self, frame: Frame, num_bytes: int, lane: Lane) -> SendWindow:
        """The send window for a frame; raises `FrameTooLarge` where the peer would refuse it."""
        if num_bytes > self._max_frame_bytes:
            raise FrameTooLarge(
                f"frame: expected at most {self._max_frame_bytes} bytes, got {num_bytes}"
            )
        if len(frame.buffers) > MAX_BUFFERS:
            raise FrameTooLarge(
                f"frame: expected at most {MAX_BUFFERS} buffers, got {len(frame.buffers)}"
            )
        return self._windows[lane]

    def say_goodbye(self) -> None:
        """Tell the peer, behind the last frame of every lane, that no more comes."""
        lanes = [lane for lane in Lane if lane in self._lanes or not self._windows[lane].is_empty]
        for lane in lanes:
            goodbye = _Goodbye(letter(Letter.GOODBYE, bytes([len(lanes)])))
            self._windows[lane].offer_waiting(goodbye, 0)

    def close(self, error: TransportError) -> None:
        """Let go of the connections; whoever waits for this link gets `error`."""
        self._is_closed = True
        self._close_sockets()
        for window in self._windows.values():
            self._counters.num_frames_dropped += window.fail(error)
        for future in (self.known, self.opened):
            if not future.done():
                future.set_exception(error)
                future.exception()  # not everyone waits: nobody need be told that it failed

    # --- sockets

    def _dial(self) -> None:
        self._secret = secrets.token_bytes(SECRET_BYTES)
        self._hello = self._introduction.hello()
        self._redial = None
        control = self._open_lane(Lane.CONTROL)
        control.send([letter(Letter.HELLO, self._hello)])

    def _open_lane(self, lane: Lane) -> DrivenSocket:
        socket = new_socket(self._context, zmq.DEALER, self._introduction.settings)
        socket.setsockopt(zmq.ROUTING_ID, routing_id(lane, self._secret))
        socket.setsockopt(zmq.IPV6, "[" in self.address)
        target = self._guard.guard_link(socket, self.address)
        self._monitors.append(watch_connection(socket, self._on_disconnect, self._on_failure))
        driven = self._lanes[lane] = DrivenSocket(socket, lambda parts: self._on(lane, parts))
        socket.connect(target)
        return driven

    def _close_sockets(self) -> None:
        if self._redial is not None:
            self._redial.cancel()
        for lane in self._lanes.values():
            lane.end_monitor()
        for driven in (*self._monitors, *self._lanes.values()):
            driven.close()
        self._monitors.clear()
        self._lanes.clear()

    def _on_disconnect(self) -> None:
        if self._is_closed:
            return
        if self.peer is not None:
            self._lose(PeerGone(f"{self.peer.name} at {self.address}: the connection broke"))
        elif self._redial is None:
            # The greeting may be lost with the connection, and is not sent again by itself.
            self._close_sockets()
            self._redial = asyncio.get_running_loop().call_later(REDIAL_S, self._dial)

    def _on_failure(self, event: int, value: int) -> None:
        """ZeroMQ could not agree with the other end on how to speak."""
        if self._is_closed or self.peer is not None:
            return
        self._num_failures += 1
        trouble = self._guard.explain(event, value, self._num_failures)
        if trouble is not None:
            self.trouble = f"{self.address} cannot be spoken to: {trouble.reason}"
            if trouble.is_final:
                self._lose(HandshakeRefused(self.trouble))

    # --- what comes back

    def _on(self, lane: Lane, parts: Parts) -> None:
        data = parts[0].bytes
        try:
            self._on_letter(lane, data[0] if data and len(parts) == 1 else 0, data[1:])
        except DecodeError:
            self._counters.num_malformed += 1

    def _on_letter(self, lane: Lane, kind: int, body: bytes) -> None:
        if kind == Letter.CREDIT and self.opened.done():
            self._windows[lane].grant(*read_credit(body))
        elif kind == Letter.CHALLENGE and not self.known.done():
            self._on_challenge(body)
        elif kind == Letter.WELCOME and self.known.done() and not self.opened.done():
            self._on_welcome(self.known.result())
        elif kind == Letter.REFUSED and not self.opened.done():
            self._lose(HandshakeRefused(body[:1024].decode(errors="replace")))
        elif kind == Letter.GOODBYE and self.known.done():
            reason = body[:1024].decode(errors="replace") or "closed"
            self._lose(PeerGone(f"{self.known.result().name} at {self.address}: {reason}"))
        else:
            raise DecodeError(f"unexpected letter {kind}")

    def _on_challenge(self, body: bytes) -> None:
        their_hello, proof = read_pair(body)
        hello = read_hello(their_hello)
        reason = self._introduction.why_refuse(hello)
        if not self._introduction.is_proof(proof, ACCEPTOR, self._hello, their_hello):
            reason = reason or WRONG_TOKEN
        if reason is not None:
            self._lose(HandshakeRefused(f"{self.address} was refused: {reason}"))
            return
        self.known.set_result(hello.peer)
        if not self._claim(self, hello.peer):
            self.close(PeerGone(f"{hello.name} is connected already"))
            return
        self._grant = (hello.window_frames, hello.window_bytes)
        self._max_frame_bytes = min(self._max_frame_bytes, hello.max_frame_bytes)
        answer = self._introduction.prove(DIALLER, self._hello, their_hello)
        self._lanes[Lane.CONTROL].send([letter(Letter.PROOF, answer)])

    def _on_welcome(self, peer: Peer) -> None:
        self.opened.set_result(peer)
        for window in self._windows.values():
            window.grant(*self._grant)

    def _lose(self, error: TransportError) -> None:
        if not self._is_closed:
            self._on_lost(self, error)

    # --- what goes out

    def _new_window(self, lane: Lane) -> SendWindow:
        settings = self._introduction.settings
        return SendWindow(
            lambda frame, num_bytes: self._put_out(lane, frame, num_bytes),
            max_frames=settings.queue_frames,
            max_bytes=settings.queue_bytes,
        )

    def _put_out(self, lane: Lane, frame: Frame, num_bytes: int) -> None:
        driven = self._lanes.get(lane) or self._open_lane(lane)
        if isinstance(frame, _Goodbye):
            driven.send([frame.head])
            return
        driven.send([_FRAME + frame.head, *frame.buffers], copy=num_bytes < ZERO_COPY_BYTES)
        self._counters.count_sent(num_bytes)


def challenge(introduction: Introduction, their_hello: bytes, our_hello: bytes) -> bytes:
    """The acceptor's answer to a hello: its own, and the proof that it knows the token."""
    proof = introduction.prove(ACCEPTOR, their_hello, our_hello)
    return letter(Letter.CHALLENGE, pack_pair(our_hello, proof))
