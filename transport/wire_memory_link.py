"""A conversation between two processes on one memory network, and its two ends.

What one end sends is numbered per lane, so that the other end finds what is doubled or out of
order; credit travels the same way. An end that goes without a goodbye is missed by the other end
after the peer timeout: the conversation knows both, so an idle one needs no heartbeats, and no
timers.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

from transport.counters import Counters
from transport.credit import ReceiveWindow, SendWindow
from transport.endpoint import Lane, Peer, Received
from transport.errors import FrameTooLarge, PeerGone, TransportError
from transport.frame import Frame
from transport.handshake import Hello
from transport.settings import MAX_BUFFERS, EndpointSettings
from transport.wire_memory import InOrder, Packet, Wire

SMALL_BYTES = 16
"""What credit and goodbyes are taken to weigh."""


@dataclass(frozen=True, slots=True)
class Credit:
    """What a receiver gives back."""

    num_frames: int
    num_bytes: int


@dataclass(frozen=True, slots=True)
class Goodbye:
    """Nothing more comes on this lane."""


Content: TypeAlias = Frame | Credit | Goodbye


class Conversation:
    """Two links that belong together, the dialler's first; over once either has left."""

    __slots__ = ("ends", "is_over")

    def __init__(self) -> None:
        self.is_over = False
        self.ends: list[Link] = []

    def other(self, link: "Link") -> "Link | None":
        """The link at the other end, while it is there."""
        for end in self.ends:
            if end is not link:
                return end
        return None

    def leave(self, link: "Link") -> None:
        """One end is gone; the other misses it after a while."""
        self.is_over = True
        self.ends.remove(link)
        for end in self.ends:
            end.miss()


@dataclass(frozen=True, slots=True)
class Host:
    """What a link needs of the endpoint that it belongs to."""

    name: str
    settings: EndpointSettings
    counters: Counters
    wire: Wire
    on_frame: Callable[[Received], None]
    on_lost: Callable[["Link", TransportError], None]


class Link:
    """One end of a conversation; `opened` is done once frames can be sent."""

    def __init__(self, host: Host, conversation: Conversation, name: str) -> None:
        """`name` is that of the process at the other end."""
        self.name = name
        self.conversation = conversation
        self.num_waiting = 0
        self.is_killed = False
        self.opened: asyncio.Future[Peer] = asyncio.get_running_loop().create_future()
        self.peer: Peer | None = None
        """Who is at the other end, once frames can be sent there."""
        self._host = host
        self._is_over = False
        self._to_leave: set[Lane] = set()
        self._num_goodbyes = 0
        self._missing: asyncio.TimerHandle | None = None
        self._max_frame_bytes = host.settings.max_frame_bytes
        self._windows = {lane: self._new_send_window(lane) for lane in Lane}
        self._granted = {lane: self._new_receive_window(lane) for lane in Lane}
        self._numbers = dict.fromkeys(Lane, 0)
        self._arrived: dict[Lane, InOrder[Content]] = {lane: InOrder() for lane in Lane}
        conversation.ends.append(self)

    @property
    def windows(self) -> tuple[SendWindow, ...]:
        """The send window of each lane."""
        return tuple(self._windows.values())

    def open(self, hello: Hello) -> None:
        """The other end is known, and what it grants."""
        self.peer = hello.peer
        self.opened.set_result(hello.peer)
        self._max_frame_bytes = min(self._max_frame_bytes, hello.max_frame_bytes)
        for window in self.windows:
            window.grant(hello.window_frames, hello.window_bytes)

    def window(self, frame: Frame, num_bytes: int, lane: Lane) -> SendWindow:
        """The send window for a frame; raises `FrameTooLarge` where the peer would refuse it."""
        if num_bytes > self._max_frame_bytes:
            raise _too_large(self._max_frame_bytes, "bytes", num_bytes)
        if len(frame.buffers) > MAX_BUFFERS:
            raise _too_large(MAX_BUFFERS, "buffers", len(frame.buffers))
        return self._windows[lane]

    # --- what goes out

    def _new_send_window(self, lane: Lane) -> SendWindow:
        def put_out(frame: Frame, num_bytes: int) -> None:
            self._host.counters.count_sent(num_bytes)
            self._put_out(lane, frame, num_bytes)

        settings = self._host.settings
        return SendWindow(put_out, max_frames=settings.queue_frames, max_bytes=settings.queue_bytes)

    def _put_out(self, lane: Lane, content: Content, num_bytes: int) -> None:
        number = self._numbers[lane]
        self._numbers[lane] = number + 1
        self._carry(num_bytes, partial(self._deliver, lane, number, content))

    def _deliver(self, lane: Lane, number: int, content: Content) -> bool:
        other = self.conversation.other(self)
        return other is None or other.take(lane, number, content)

    def _carry(self, num_bytes: int, deliver: Callable[[], bool]) -> None:
        self._host.wire.carry(Packet(self._host.name, self.name, num_bytes, deliver, self))

    @property
    def cares(self) -> bool:
        """Whether anyone is left to send to, and to send."""
        return not self.is_killed and self.conversation.other(self) is not None

    # --- what comes in

    def take(self, lane: Lane, number: int, content: Content) -> bool:
        """Take what the other end sent; False while we do not know yet that we are connected."""
        if self.peer is None:
            return False
        for each in self._arrived[lane].take(number, content):
            if not self._is_over:  # whoever was told of the one before may have ended us
                self._on(lane, each)
        return True

    def _on(self, lane: Lane, content: Content) -> None:
        match content:
            case Frame():
                self._on_frame(lane, content)
            case Credit():
                self._windows[lane].grant(content.num_frames, content.num_bytes)
                self._say_goodbye_if_done(lane)
            case Goodbye():
                self._num_goodbyes += 1
                if self._num_goodbyes == len(Lane):
                    self.lose("closed")

    def _on_frame(self, lane: Lane, frame: Frame) -> None:
        peer, num_bytes = self.opened.result(), frame.num_bytes
        release = self._granted[lane].take(num_bytes)
        if release is None:
            raise AssertionError(f"{peer.name} sent more than its credit")
        # A sender may use its buffers again; one process must not see what another writes.
        own = Frame(frame.head, tuple(map(bytes, frame.buffers)))
        self._host.counters.count_received(num_bytes)
        self._host.on_frame(Received(peer, lane, own, release))

    def _new_receive_window(self, lane: Lane) -> ReceiveWindow:
        def give_back(num_frames: int, num_bytes: int) -> None:
            if not self._is_over:
                self._put_out(lane, Credit(num_frames, num_bytes), SMALL_BYTES)

        settings = self._host.settings
        return ReceiveWindow(
            give_back, num_frames=settings.window_frames, num_bytes=settings.window_bytes
        )

    # --- ends

    def say_goodbye(self) -> None:
        """Tell the peer, behind the last frame of every lane, that no more comes."""
        self._to_leave.update(Lane)
        for lane in Lane:
            self._say_goodbye_if_done(lane)

    def _say_goodbye_if_done(self, lane: Lane) -> None:
        if lane in self._to_leave and self._windows[lane].is_empty:
            self._to_leave.remove(lane)
            self._put_out(lane, Goodbye(), SMALL_BYTES)

    def miss(self) -> None:
        """The other end is silent from now on; lose it unless it is `found` in time."""
        if self._missing is None:
            timeout_s = self._host.settings.peer_timeout_s
            loop = asyncio.get_running_loop()
            self._missing = loop.call_later(timeout_s, self.lose, f"silent for {timeout_s:g} s")

    def found(self) -> None:
        """The other end can be heard again, if it is still there."""
        if self._missing is not None and not self.conversation.is_over:
            self._missing.cancel()
            self._missing = None

    def on_silence(self) -> None:
        """A packet of ours never got there."""
        self.lose("nothing that we sent was acknowledged")

    def lose(self, reason: str) -> None:
        """End this link because of what happened to the other end."""
        if not self._is_over:
            self._host.on_lost(self, PeerGone(f"{self.name} at memory://{self.name}: {reason}"))

    def give_way(self, peer: Peer) -> None:
        """The peer's call came first: whoever waits for this link is connected by the other one."""
        self.peer = peer
        self.opened.set_result(peer)
        self.end(PeerGone(f"{peer.name} is connected the other way"))

    def end(self, error: TransportError, farewell: str = "") -> None:
        """Let go; whoever waits for this link gets `error`, and the other end hears `farewell`."""
        if self._is_over:
            return
        self._is_over = True
        if self._missing is not None:
            self._missing.cancel()
        self.conversation.leave(self)
        other = self.conversation.other(self)
        if farewell and other is not None:
            self._carry(SMALL_BYTES, lambda: _is_lost(other, farewell))
        for window in self.windows:
            self._host.counters.num_frames_dropped += window.fail(error)
        if not self.opened.done():
            self.opened.set_exception(error)
            self.opened.exception()  # not everyone waits: nobody need be told that it failed


def _too_large(bound: int, unit: str, found: int) -> FrameTooLarge:
    return FrameTooLarge(f"frame: expected at most {bound} {unit}, got {found}")


def _is_lost(link: Link, reason: str) -> bool:
    link.lose(reason)
    return True
