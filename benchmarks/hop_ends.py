"""The two ends of a hop, as actors and as bare sockets, and the process that holds the far ones.

Both kinds send what a stage sends: a small head and one buffer of hidden states. A ping comes back
whole; a stream is answered by a small acknowledgement every `ACK_EVERY` messages, and at most
`WINDOW` of them are on their way. The bare kind is the least that any ZeroMQ program on an event
loop does: a DEALER, its descriptor watched, drained when it wakes.
"""

import asyncio
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import zmq

from actors.kernel.actor import Actor
from actors.kernel.ref import Ref
from actors.messages import StepInput, StepOutput
from runtime.opening import open_system
from transport.codec import Message
from transport.frame import Buffer

PING, STREAM = 0, 1
WINDOW, ACK_EVERY = 64, 16
HOST, FAR_NAME = "127.0.0.1", "far"
HEAD = bytes(512)
"""As large as the packed batch of a step of eight sequences."""
PROTOCOL_HEAD = {PING: bytes([PING]) + HEAD, STREAM: bytes([STREAM]) + HEAD}
ACK = b"ack"


class Rally:
    """The near end's count: what is still to send and to hear until one measurement is over."""

    def __init__(self, kind: int, count: int, send: Callable[[int], None]) -> None:
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._kind, self._send = kind, send
        self._to_send, self._to_hear = count, count if kind == PING else count // ACK_EVERY

    def begin(self) -> None:
        """Send the first message, or as many as may be under way."""
        for _ in range(1 if self._kind == PING else WINDOW):
            self._send_one()

    def on_answer(self) -> None:
        """Send on, or end."""
        self._to_hear -= 1
        if self._to_hear == 0 and not self.done.done():
            self.done.set_result(None)
        for _ in range(1 if self._kind == PING else ACK_EVERY):
            self._send_one()

    def _send_one(self) -> None:
        if self._to_send > 0:
            self._to_send -= 1
            self._send(self._kind)


class NearActor(Actor):
    """Sends to a far actor."""

    def __init__(self, far: Ref, payload: bytes) -> None:
        self._far, self._payload = far, payload
        self._rally: Rally | None = None

    async def measure(self, kind: int, count: int) -> None:
        """Send `count` messages and wait until all were answered."""
        self._rally = Rally(kind, count, self._send)
        self._rally.begin()
        await self._rally.done

    def _send(self, kind: int) -> None:
        message = StepInput(epoch=kind, step=0, batch=HEAD)
        self.context.tell(self._far, message, buffers=(self._payload,))

    async def receive(
        self, message: Message, sender: Ref | None, buffers: Sequence[Buffer]
    ) -> Message | None:
        """Take an answer."""
        assert self._rally is not None
        self._rally.on_answer()
        return None


class FarActor(Actor):
    """Answers whoever sends."""

    def __init__(self) -> None:
        self._num_streamed = 0

    async def receive(
        self, message: Message, sender: Ref | None, buffers: Sequence[Buffer]
    ) -> Message | None:
        """Return a ping; acknowledge a stream now and then."""
        assert isinstance(message, StepInput)
        assert sender is not None
        if message.epoch == PING:
            self.context.tell(sender, message, buffers=buffers)
            return None
        self._num_streamed += 1
        if self._num_streamed % ACK_EVERY == 0:
            self.context.tell(sender, StepOutput(epoch=0, step=0, token_ids=ACK))
        return None


class BareEnd:
    """A socket that an event loop drives through its descriptor, and nothing more."""

    def __init__(self, socket: "zmq.Socket[bytes]", on_message: Callable[[list[bytes]], None]):
        self._socket, self._on_message = socket, on_message
        self._loop = asyncio.get_running_loop()
        self._fd = int(socket.getsockopt(zmq.FD))
        self._loop.add_reader(self._fd, self._drain)

    def send(self, parts: list[bytes]) -> None:
        """Send, and look whether that swallowed a wake-up of the edge-triggered descriptor."""
        self._socket.send_multipart(parts, zmq.NOBLOCK)
        if int(self._socket.getsockopt(zmq.EVENTS)) & zmq.POLLIN:
            self._loop.call_soon(self._drain)

    def close(self) -> None:
        """Leave the loop and close the socket."""
        self._loop.remove_reader(self._fd)
        self._socket.close(0)

    def _drain(self) -> None:
        while not self._socket.closed:
            try:
                parts = self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            self._on_message(parts)


class BareNear:
    """Sends to a far bare end."""

    def __init__(self, socket: "zmq.Socket[bytes]", payload: bytes) -> None:
        self._end = BareEnd(socket, lambda _: self._rally.on_answer())
        self._payload = payload
        self._rally: Rally

    async def measure(self, kind: int, count: int) -> None:
        """Send `count` messages and wait until all were answered."""
        self._rally = Rally(kind, count, self._send)
        self._rally.begin()
        await self._rally.done

    def close(self) -> None:
        """Close the socket."""
        self._end.close()

    def _send(self, kind: int) -> None:
        self._end.send([PROTOCOL_HEAD[kind], self._payload])


class BareFar:
    """Answers whoever sends."""

    def __init__(self, socket: "zmq.Socket[bytes]") -> None:
        self._end = BareEnd(socket, self._on_message)
        self._num_streamed = 0

    def close(self) -> None:
        """Close the socket."""
        self._end.close()

    def _on_message(self, parts: list[bytes]) -> None:
        if parts[0][0] == PING:
            self._end.send(parts)
            return
        self._num_streamed += 1
        if self._num_streamed % ACK_EVERY == 0:
            self._end.send([ACK])


@contextmanager
def bare_socket() -> Iterator["zmq.Socket[bytes]"]:
    """A DEALER without a limit of its own: `WINDOW` is the limit."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    socket = context.socket(zmq.DEALER)
    socket.setsockopt(zmq.SNDHWM, 0)
    socket.setsockopt(zmq.RCVHWM, 0)
    try:
        yield socket
    finally:
        socket.close(0)
        context.term()


async def hold_far_ends() -> None:
    """Listen, say where on standard output, and answer until standard input ends."""
    token, keyed_token = (os.environ[name] for name in ("HOP_TOKEN", "HOP_KEYED_TOKEN"))
    with bare_socket() as socket:
        async with (
            open_system(FAR_NAME, HOST, 0, token) as system,
            open_system(FAR_NAME, HOST, 0, keyed_token) as encrypted,
        ):
            socket.bind(f"tcp://{HOST}:*")
            bare = BareFar(socket)
            refs = [each.spawn(FarActor(), name=FAR_NAME) for each in (system, encrypted)]
            where = socket.getsockopt_string(zmq.LAST_ENDPOINT)
            sys.stdout.write(f"{refs[0].address} {refs[1].address} {where}\n")
            sys.stdout.flush()
            await _wait_end_of_input()
            bare.close()


async def _wait_end_of_input() -> None:
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_reader(sys.stdin, ended.set)
    await ended.wait()  # as long as whoever started us measures; its end closes the pipe
    loop.remove_reader(sys.stdin)


if __name__ == "__main__":
    asyncio.run(hold_far_ends())
