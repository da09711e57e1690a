"""Large buffers, chunk by chunk: sent under the bulk lane's credit, received into a given buffer.

The receiver allots a buffer to a transfer id before anything is sent, so nothing that comes can
make it allocate. A chunk says where it belongs and its checksum; what is unknown, damaged or not
the next piece is refused, since a lane never reorders. A chunk's credit returns once it is copied,
so a slow receiver slows the sender. It never knows what the bytes mean.
"""

import asyncio
from dataclasses import dataclass
from typing import Annotated, cast

from msgspec import Meta

from transport.checksum import CHECKSUM_BYTES, checksum
from transport.codec import Codec, Message
from transport.endpoint import Endpoint, Lane, Peer, Received
from transport.errors import TransferFailed
from transport.frame import Buffer, Frame

CHUNK_BYTES = 1 << 22
"""Larger frames are slow (each is allocated anew by ZeroMQ) and keep heartbeats waiting."""

Count = Annotated[int, Meta(ge=0, le=1 << 62)]


class Chunk(Message, frozen=True, tag="chunk"):
    """Where the buffer beside it belongs, in bytes from the transfer's start, and its checksum."""

    transfer: Count
    offset: Count
    checksum: Annotated[bytes, Meta(min_length=CHECKSUM_BYTES, max_length=CHECKSUM_BYTES)]


_CODEC = Codec([Chunk])


async def send_bulk(
    endpoint: Endpoint,
    peer: Peer,
    transfer: int,
    data: Buffer,
    *,
    timeout_s: float,
    chunk_bytes: int = CHUNK_BYTES,
) -> None:
    """Send a buffer to whoever allotted one of its size to `transfer`.

    It must not change until the receiver has it all.

    Raises:
        TransferFailed: it did not fit through within `timeout_s`.
        PeerGone: the peer was lost meanwhile.
    """
    view = memoryview(data).cast("B")
    try:
        async with asyncio.timeout(timeout_s):
            for offset in range(0, len(view), chunk_bytes):
                piece = view[offset : offset + chunk_bytes]
                head = _CODEC.encode(Chunk(transfer, offset, checksum([piece])))
                await endpoint.send(peer, Frame(head, (piece,)), Lane.BULK, timeout_s=timeout_s)
    except TimeoutError:
        raise TransferFailed(
            f"transfer {transfer} to {peer.name}: {len(view)} bytes did not fit through "
            f"within {timeout_s:g} s"
        ) from None


@dataclass(slots=True, eq=False)
class _Incoming:
    peer: Peer
    buffer: memoryview
    done: "asyncio.Future[None]"
    num_bytes: int = 0


class BulkReceiver:
    """Puts transfers together; hand it every frame of the bulk lane."""

    def __init__(self) -> None:
        self._incoming: dict[int, _Incoming] = {}

    def allot(self, transfer: int, peer: Peer, buffer: bytearray | memoryview) -> None:
        """Take a transfer of exactly the buffer's size from one peer.

        Raises:
            TransferFailed: the id is in use.
        """
        view = memoryview(buffer).cast("B")
        if transfer in self._incoming:
            raise TransferFailed(f"transfer {transfer} is under way already")
        done = asyncio.get_running_loop().create_future()
        self._incoming[transfer] = _Incoming(peer, view, done)
        if not len(view):
            done.set_result(None)

    async def wait(self, transfer: int, *, timeout_s: float) -> None:
        """Wait until a transfer is whole; whatever happens, its buffer is not written afterwards.

        Raises:
            TransferFailed: it was damaged, or not whole within `timeout_s`.
        """
        incoming = self._incoming[transfer]
        try:
            async with asyncio.timeout(timeout_s):
                await incoming.done
        except TimeoutError:
            raise TransferFailed(
                f"transfer {transfer} from {incoming.peer.name}: {incoming.num_bytes} of "
                f"{len(incoming.buffer)} bytes had come after {timeout_s:g} s"
            ) from None
        finally:
            del self._incoming[transfer]

    def fail_peer(self, peer: Peer) -> None:
        """Whatever comes from a peer that is gone will not be whole."""
        for transfer, incoming in self._incoming.items():
            if incoming.peer == peer:
                _fail(incoming, f"transfer {transfer}: {peer.name} is gone")

    def take(self, received: Received) -> None:
        """Put a chunk where it belongs, and release its frame.

        Raises:
            DecodeError: the frame is no chunk.
            TransferFailed: nobody waits for such a chunk; the transfer it names, if the same peer
                sends it, fails as well.
        """
        try:
            chunk = cast("Chunk", _CODEC.decode(received.frame.head))
            incoming = self._incoming.get(chunk.transfer)
            if incoming is None or incoming.peer != received.peer:
                raise TransferFailed(
                    f"transfer {chunk.transfer} from {received.peer.name}: nobody waits for it"
                )
            reason = _put(incoming, chunk, received.frame)
            if reason is not None:
                raise _fail(incoming, f"transfer {chunk.transfer}: {reason}")
        finally:
            received.release()


def _put(incoming: _Incoming, chunk: Chunk, frame: Frame) -> str | None:
    """Copy a chunk into its place, or say what is wrong with it."""
    if len(frame.buffers) != 1:
        return f"expected one buffer beside a chunk, got {len(frame.buffers)}"
    data = memoryview(frame.buffers[0]).cast("B")
    start, end = chunk.offset, chunk.offset + len(data)
    if start != incoming.num_bytes or not start < end <= len(incoming.buffer):
        return (
            f"expected bytes from {incoming.num_bytes} to at most {len(incoming.buffer)}, "
            f"got {start} to {end}"
        )
    if checksum([data]) != chunk.checksum:
        return f"bytes {start} to {end} were damaged on the way"
    incoming.buffer[start:end] = data
    incoming.num_bytes = end
    if end == len(incoming.buffer):
        incoming.done.set_result(None)
    return None


def _fail(incoming: _Incoming, text: str) -> TransferFailed:
    error = TransferFailed(text)
    if not incoming.done.done():
        incoming.done.set_exception(error)
        incoming.done.exception()  # who allotted it may have given up waiting
    return error
