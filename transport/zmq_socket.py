"""A ZeroMQ socket driven by the event loop through its file descriptor.

The descriptor is edge-triggered: it wakes once, however much waits. So the socket is drained in
bounded rounds, looked at again after every send, and a round that stopped at its bound schedules
the next.
"""

import asyncio
from collections.abc import Callable, Sequence

import zmq

from transport.frame import Buffer

MAX_ROUND = 64


class DrivenSocket:
    """Calls `on_message(parts)` for every message a socket receives."""

    def __init__(
        self, socket: "zmq.Socket[bytes]", on_message: Callable[[list[zmq.Frame]], None]
    ) -> None:
        self._socket = socket
        self._on_message = on_message
        self._loop = asyncio.get_running_loop()
        self._fd = int(socket.getsockopt(zmq.FD))
        self._is_open = True
        self._loop.add_reader(self._fd, self._drain)
        self._loop.call_soon(self._drain)

    def send(self, parts: Sequence[Buffer], *, copy: bool = True) -> None:
        """Hand a message to ZeroMQ; raises zmq.Again where it takes no more."""
        self._socket.send_multipart(parts, zmq.NOBLOCK, copy=copy)
        if int(self._socket.getsockopt(zmq.EVENTS)) & zmq.POLLIN:
            self._loop.call_soon(self._drain)

    def close(self, linger_ms: int = 0) -> None:
        """Stop listening and close the socket."""
        if self._is_open:
            self._is_open = False
            self._loop.remove_reader(self._fd)
            self._socket.close(linger_ms)

    def _drain(self) -> None:
        for _ in range(MAX_ROUND):
            if not self._is_open:
                return
            try:
                parts = self._socket.recv_multipart(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                return
            self._on_message(parts)
        self._loop.call_soon(self._drain)
