"""A ZeroMQ socket driven by the event loop through its file descriptor.

The descriptor is edge-triggered: it wakes once, however much waits. So the socket is drained in
bounded rounds, looked at again after every send, and a round that stopped at its bound schedules
the next. This is the hottest code there is: plain integers stand for ZeroMQ's enumerations.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import TypeAlias

import zmq
from zmq.utils.monitor import parse_monitor_message

from transport.frame import Buffer
from transport.settings import EndpointSettings

Context: TypeAlias = "zmq.Context[zmq.Socket[bytes]]"
Parts: TypeAlias = list[zmq.Frame]
MAX_ROUND = 64
LETTER_BYTES = 1 << 16
"""More than any letter of the handshake; a frame beyond its own bound is refused on receipt."""

_NOBLOCK, _EVENTS, _POLLIN = int(zmq.NOBLOCK), int(zmq.EVENTS), int(zmq.POLLIN)
_WATCHED = (
    int(zmq.EVENT_DISCONNECTED)
    | int(zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL)
    | int(zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL)
    | int(zmq.EVENT_HANDSHAKE_FAILED_AUTH)
)
_NOBLOCK_MORE = _NOBLOCK | int(zmq.SNDMORE)


class DrivenSocket:
    """Calls `on_message(parts)` for every message a socket receives."""

    def __init__(self, socket: "zmq.Socket[bytes]", on_message: Callable[[Parts], None]) -> None:
        self._socket = socket
        self._on_message = on_message
        self._loop = asyncio.get_running_loop()
        self._fd = int(socket.getsockopt(zmq.FD))
        self._is_open = True
        self._loop.add_reader(self._fd, self.drain)
        self._loop.call_soon(self.drain)

    def send(self, parts: Sequence[Buffer], *, copy: bool = True) -> None:
        """Hand a message to ZeroMQ; raises zmq.ZMQError where it takes no more."""
        send, last = self._socket.send, len(parts) - 1
        for part in parts[:last]:
            send(part, _NOBLOCK_MORE, copy)
        send(parts[last], _NOBLOCK, copy)
        if self._socket.getsockopt(_EVENTS) & _POLLIN:  # type: ignore[operator]
            self._loop.call_soon(self.drain)

    def close(self) -> None:
        """Stop listening and close the socket at once; what must leave is waited for before.

        A socket that lingers has connections that nobody reads; if one of them breaks meanwhile,
        libzmq 4.3.5 ends the process at its next heartbeat (assertion in stream_engine_base).
        """
        if self._is_open:
            self._is_open = False
            self._loop.remove_reader(self._fd)
            self._socket.close(0)

    def end_monitor(self) -> None:
        """Have ZeroMQ tell no more of this socket's connections.

        To be called before the monitor's receiving end closes: libzmq's I/O thread hangs for good
        where it has news for a monitor that nobody receives.
        """
        if self._is_open:
            self._socket.disable_monitor()

    def drain(self) -> None:
        """Take what has come in, at most a round of it now and the rest soon."""
        if not self._is_open:
            return
        receive, look = self._socket.recv, self._socket.getsockopt
        for _ in range(MAX_ROUND):
            if not look(_EVENTS) & _POLLIN:  # type: ignore[operator]
                return
            part = receive(_NOBLOCK, False)
            parts = [part]
            while part.more:
                part = receive(_NOBLOCK, False)
                parts.append(part)
            self._on_message(parts)
            if not self._is_open:
                return
        self._loop.call_soon(self.drain)


def watch_connection(
    socket: "zmq.Socket[bytes]",
    on_disconnect: Callable[[], None],
    on_failure: Callable[[int, int], None],
) -> DrivenSocket:
    """Tell of a dialling socket's connection: each time it breaks, and first why none came about.

    `on_failure` gets the event and its value, see `zmq_socket_monitor(3)`.
    """

    def on_event(parts: Parts) -> None:
        news = parse_monitor_message([part.bytes for part in parts])
        if news["event"] == zmq.EVENT_DISCONNECTED:
            on_disconnect()
        else:
            on_failure(int(news["event"]), int(news["value"]))

    return DrivenSocket(socket.get_monitor_socket(_WATCHED), on_event)


def new_socket(context: Context, kind: int, settings: EndpointSettings) -> "zmq.Socket[bytes]":
    """A socket that bounds what it reads, asks whether its peer lives and lets go when closed.

    What it sends is bounded by the credit of our own protocol, so ZeroMQ's own mark, which counts
    messages whatever their size, is off.
    """
    socket = context.socket(kind)
    timeout_ms = int(settings.peer_timeout_s * 1000)
    for option, value in (
        (zmq.LINGER, 0),
        (zmq.SNDHWM, 0),
        (zmq.RCVHWM, 2 * settings.window_frames + MAX_ROUND),
        (zmq.MAXMSGSIZE, settings.max_frame_bytes + LETTER_BYTES),
        (zmq.HEARTBEAT_IVL, int(settings.heartbeat_s * 1000)),
        (zmq.HEARTBEAT_TIMEOUT, timeout_ms),
        (zmq.HEARTBEAT_TTL, timeout_ms),
        (zmq.HANDSHAKE_IVL, int(settings.handshake_timeout_s * 1000)),
        (zmq.RECONNECT_IVL, 100),
    ):
        socket.setsockopt(option, value)
    return socket
