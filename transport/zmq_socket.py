"""A ZeroMQ socket driven by the event loop through its file descriptor.

The descriptor is edge-triggered: it wakes once, however much waits. So the socket is drained in
bounded rounds, looked at again after every send, and a round that stopped at its bound schedules
the next.
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
        self._socket.send_multipart(parts, zmq.NOBLOCK, copy=copy)
        if int(self._socket.getsockopt(zmq.EVENTS)) & zmq.POLLIN:
            self._loop.call_soon(self.drain)

    def close(self, linger_ms: int = 0) -> None:
        """Stop listening and close the socket; what was sent has `linger_ms` to leave."""
        if self._is_open:
            self._is_open = False
            self._loop.remove_reader(self._fd)
            self._socket.close(linger_ms)

    def drain(self) -> None:
        """Take what has come in, at most a round of it now and the rest soon."""
        for _ in range(MAX_ROUND):
            if not self._is_open:
                return
            try:
                parts = self._socket.recv_multipart(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                return
            self._on_message(parts)
        self._loop.call_soon(self.drain)


def watch_connection(
    socket: "zmq.Socket[bytes]", on_disconnect: Callable[[], None]
) -> DrivenSocket:
    """Call `on_disconnect` each time the connection of a dialling socket breaks."""

    def on_event(parts: Parts) -> None:
        event = parse_monitor_message([part.bytes for part in parts])["event"]
        if event == zmq.EVENT_DISCONNECTED:
            on_disconnect()

    return DrivenSocket(socket.get_monitor_socket(zmq.EVENT_DISCONNECTED), on_event)


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
        (zmq.MAXMSGSIZE, settings.max_frame_bytes),
        (zmq.HEARTBEAT_IVL, int(settings.heartbeat_s * 1000)),
        (zmq.HEARTBEAT_TIMEOUT, timeout_ms),
        (zmq.HEARTBEAT_TTL, timeout_ms),
        (zmq.HANDSHAKE_IVL, int(settings.handshake_timeout_s * 1000)),
        (zmq.RECONNECT_IVL, 100),
    ):
        socket.setsockopt(option, value)
    return socket
