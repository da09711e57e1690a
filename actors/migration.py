"""KV blocks from one stage to another: the one transfer that every use of moving KV shares.

Hot swap, drain, moving or handing off one request and rebuilding all come down to: these blocks of
these layers, from here to there, into those blocks. The sender's stage reads and sends piece after
piece on the bulk lane, a few under way at a time; each is checked and written before it is
acknowledged. All work on the bytes, encoding and checksums too, is done in the devices' threads;
the event loops only pass them on. Who asked for the copy owns the blocks at both ends, so a copy
that breaks leaves nothing behind: its target was never anybody's, or is copied to again. Blocks are
copied whole, because KV is append-only (Llumnix, OSDI 2024).
"""

import asyncio
import zlib
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial, reduce

import numpy as np
import numpy.typing as npt

from actors.kernel.actor import Context
from actors.kernel.errors import ActorError
from actors.messages import (
    MAX_PIECE_LAYERS,
    BlocksSent,
    BlocksWritten,
    SendBlocks,
    WriteBlocks,
)
from models.errors import ModelError
from models.interface import Shard
from models.kv_encoding import KvEncoding
from transport.endpoint import Lane
from transport.errors import TransportError
from transport.frame import Buffer

PIECE_BYTES = 1 << 21
"""A piece occupies a device for about a millisecond: what a step may have to wait for it.

Half of it takes half the time and makes a copy slower by a quarter: every piece costs messages.
"""
ENCODED_PIECE_BYTES = 1 << 20
"""Of the cache: encoding takes the device longer than copying, and less goes over the wire."""
MAX_PIECES_UNDER_WAY = 4
PIECE_TIMEOUT_S = 30.0
MAX_TEXT = 4096

Ids = npt.NDArray[np.int32]


class TransferBroken(Exception):
    """A piece did not arrive; the text says which and why."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Some blocks of layers `[start, end)`: where they are, and where they go."""

    start: int
    end: int
    blocks: Ids
    target_blocks: Ids

    def __str__(self) -> str:
        return named_layers(self.start, self.end)


@dataclass(frozen=True, slots=True)
class Payload:
    """What a piece holds: a buffer a layer, and the checksum over all of them in order."""

    buffers: tuple[Buffer, ...]
    crc32: int


RunsOnDevice = Callable[[Callable[[], Payload]], Awaitable[Payload]]


def pieces(
    start: int, end: int, blocks: Ids, target_blocks: Ids, per_piece: int
) -> Iterator[Piece]:
    """Cut a copy into pieces of at most `per_piece` blocks, a block of two layers being two.

    A piece is some blocks of one layer, or, where there are few, all of them of several.
    """
    if not len(blocks):
        return
    num_layers = min(max(1, per_piece // len(blocks)), MAX_PIECE_LAYERS)
    for layer in range(start, end, num_layers):
        for first in range(0, len(blocks), per_piece):
            part = slice(first, first + per_piece)
            yield Piece(layer, min(layer + num_layers, end), blocks[part], target_blocks[part])


async def send_blocks(
    context: Context, run: RunsOnDevice, shard: Shard, block_bytes: int, wanted: SendBlocks
) -> BlocksSent:
    """Copy what was asked for to its target; one answer: all of it, or why not.

    `block_bytes` are what a block of one layer takes in the cache.
    """
    try:
        async with asyncio.timeout(wanted.deadline_s):
            num_blocks = await _send_all(context, run, shard, block_bytes, wanted)
        encoded, plain = shard.block_bytes(wanted.encoding), shard.block_bytes("none")
    except TimeoutError:
        return BlocksSent(num_bytes=0, failure=f"not done within {wanted.deadline_s:g} s")
    except (TransferBroken, ModelError, ValueError) as error:
        return BlocksSent(num_bytes=0, failure=str(error)[:MAX_TEXT])
    return BlocksSent(
        num_bytes=num_blocks * encoded,
        failure=None,
        saved_bytes=max(0, num_blocks * (plain - encoded)),
    )


async def _send_all(
    context: Context, run: RunsOnDevice, shard: Shard, block_bytes: int, wanted: SendBlocks
) -> int:
    """Send every piece; blocks sent, those of two layers being two."""
    blocks, targets = block_ids(wanted.blocks), block_ids(wanted.target_blocks)
    if len(blocks) != len(targets):
        raise TransferBroken(f"{len(blocks)} blocks cannot go into {len(targets)}")
    per_piece = max(1, _piece_bytes(wanted) // block_bytes)
    left = pieces(wanted.start, wanted.end, blocks, targets, per_piece)

    async def send_some() -> None:
        for piece in left:
            payload = await run(partial(read_piece, shard, piece, wanted.encoding))
            await _deliver(context, wanted, piece, payload)

    try:
        async with asyncio.TaskGroup() as sending:
            for _ in range(MAX_PIECES_UNDER_WAY):
                sending.create_task(send_some())
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from None
    return len(blocks) * (wanted.end - wanted.start)


def _piece_bytes(wanted: SendBlocks) -> int:
    return PIECE_BYTES if wanted.encoding == "none" else ENCODED_PIECE_BYTES


def read_piece(shard: Shard, piece: Piece, encoding: KvEncoding) -> Payload:
    """Take a piece out of the cache, as it goes; blocking.

    Raises:
        ModelError: the shard has no such layer or block, or cannot encode it.
    """
    layers = range(piece.start, piece.end)
    buffers = tuple(shard.read_blocks(layer, piece.blocks, encoding) for layer in layers)
    return Payload(buffers, checksum(buffers))


def checksum(buffers: Sequence[Buffer]) -> int:
    """The CRC-32 of buffers one after another."""
    return reduce(lambda crc, buffer: zlib.crc32(buffer, crc), buffers, 0)


async def _deliver(context: Context, wanted: SendBlocks, piece: Piece, payload: Payload) -> None:
    message = WriteBlocks(
        epoch=wanted.target_epoch,
        layer=piece.start,
        num_layers=piece.end - piece.start,
        blocks=piece.target_blocks.tobytes(),
        crc32=payload.crc32,
        encoding=wanted.encoding,
    )
    try:
        answer = await context.ask(
            wanted.target,
            message,
            buffers=payload.buffers,
            lane=Lane.BULK,
            timeout_s=PIECE_TIMEOUT_S,
        )
    except (ActorError, TransportError) as error:
        raise TransferBroken(f"{piece} did not reach {wanted.target}: {error}") from None
    if not isinstance(answer, BlocksWritten) or answer.failure is not None:
        failure = getattr(answer, "failure", "its answer was another")
        raise TransferBroken(f"{piece} was not written by {wanted.target}: {failure}")


def write_blocks(shard: Shard, message: WriteBlocks, buffers: Sequence[Buffer]) -> str | None:
    """Check a piece and put it in its place; blocking. Why not, if it cannot be."""
    layers = range(message.layer, message.layer + message.num_layers)
    name = named_layers(layers.start, layers.stop)
    if len(buffers) != len(layers):
        return f"{name}: expected a buffer for each layer, got {len(buffers)}"
    if checksum(buffers) != message.crc32:
        return f"{name}: the bytes were damaged on the way"
    try:
        blocks = block_ids(message.blocks)
        for layer, data in zip(layers, buffers, strict=True):
            shard.write_blocks(layer, blocks, data, message.encoding)
    except (ModelError, ValueError) as error:
        return str(error)[:MAX_TEXT]
    return None


def named_layers(start: int, end: int) -> str:
    """Layers `[start, end)` as a reader would say."""
    return f"layer {start}" if end == start + 1 else f"layers {start}:{end}"


def block_ids(packed: bytes) -> Ids:
    """Block ids as they travel: int32, little-endian.

    Raises:
        ValueError: the bytes are no whole number of them.
    """
    return np.frombuffer(packed, np.dtype("<i4")).astype(np.int32, copy=False)
