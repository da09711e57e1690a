"""KV blocks from one stage to another: the one transfer that every use of moving KV shares.

Hot swap, drain, moving or handing off one request and rebuilding all come down to: these blocks of
these layers, from here to there, into those blocks. The sender's stage reads piece after piece and
sends some in a message on the bulk lane, a few messages under way at a time; each piece is checked
and written before its message is acknowledged. All work on the bytes, encoding and checksums too,
is done in threads that copy beside the devices' steps; the event loops only pass them on. Who asked
for the copy owns the blocks at both ends, so a copy that breaks leaves nothing behind: its target
was never anybody's, or is copied to again. Blocks are copied whole, because KV is append-only
(Llumnix, OSDI 2024).
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice

import numpy as np
import numpy.typing as npt

from actors.kernel.actor import Context
from actors.kernel.errors import ActorError
from actors.messages import (
    MAX_PIECE_LAYERS,
    MAX_PIECES,
    BlockPiece,
    BlocksSent,
    BlocksWritten,
    SendBlocks,
    WriteBlocks,
)
from models.errors import ModelError
from models.interface import Shard
from models.kv_encoding import KvEncoding
from transport.checksum import checksum
from transport.endpoint import Lane
from transport.errors import TransportError
from transport.frame import Buffer

PIECE_BYTES = 1 << 21
"""A piece keeps the thread that copies for under a millisecond: others' copies wait for one."""
ENCODED_PIECE_BYTES = 1 << 20
"""The same of what is encoded, counted as it lies in the cache: it takes the device longer."""
PARCEL_BYTES = 1 << 22
"""Of the cache, in one message: each costs both event loops time, and this much one slow link."""
MAX_PARCELS_UNDER_WAY = 3
PARCEL_TIMEOUT_S = 30.0
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


@dataclass(frozen=True, slots=True)
class Payload:
    """What a piece holds: a buffer a layer, and how it is announced."""

    head: BlockPiece
    buffers: tuple[Buffer, ...]


RunsOnDevice = Callable[[Callable[[], Payload]], Awaitable[Payload]]
WritesOnDevice = Callable[[Callable[[], str | None]], Awaitable[str | None]]


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


# --- sending


async def send_blocks(
    context: Context,
    run: RunsOnDevice,
    shard: Shard,
    block_bytes: int,
    wanted: SendBlocks,
    left_s: float | None = None,
) -> BlocksSent:
    """Copy what was asked for to its target; one answer: all of it, or why not.

    `block_bytes` are what a block of one layer takes in the cache, and `left_s` is what is left of
    the time that was given, if not all of it.
    """
    try:
        async with asyncio.timeout(wanted.deadline_s if left_s is None else left_s):
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
    piece_bytes = PIECE_BYTES if wanted.encoding == "none" else ENCODED_PIECE_BYTES
    per_piece = max(1, piece_bytes // block_bytes)
    per_parcel = min(PARCEL_BYTES // piece_bytes, MAX_PIECES)
    left = pieces(wanted.start, wanted.end, blocks, targets, per_piece)

    async def send_some() -> None:
        while parcel := list(islice(left, per_parcel)):
            # Read one by one, so that another copy waits for one piece at most.
            loaded = [await run(partial(read_piece, shard, p, wanted.encoding)) for p in parcel]
            await _deliver(context, wanted, loaded)

    try:
        async with asyncio.TaskGroup() as sending:
            for _ in range(MAX_PARCELS_UNDER_WAY):
                sending.create_task(send_some())
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from None
    return len(blocks) * (wanted.end - wanted.start)


def read_piece(shard: Shard, piece: Piece, encoding: KvEncoding) -> Payload:
    """Take a piece out of the cache, as it goes; blocking.

    Raises:
        ModelError: the shard has no such layer or block, or cannot encode it.
    """
    layers = range(piece.start, piece.end)
    buffers = tuple(shard.read_blocks(layer, piece.blocks, encoding) for layer in layers)
    targets = piece.target_blocks.astype("<i4", copy=False).tobytes()
    return Payload(BlockPiece(piece.start, len(layers), targets, checksum(buffers)), buffers)


async def _deliver(context: Context, wanted: SendBlocks, loaded: Sequence[Payload]) -> None:
    heads = tuple(payload.head for payload in loaded)
    what = _named_layers(heads[0].layer, heads[-1].layer + heads[-1].num_layers)
    message = WriteBlocks(epoch=wanted.target_epoch, pieces=heads, encoding=wanted.encoding)
    buffers = tuple(buffer for payload in loaded for buffer in payload.buffers)
    try:
        answer = await context.ask(
            wanted.target, message, buffers=buffers, lane=Lane.BULK, timeout_s=PARCEL_TIMEOUT_S
        )
    except (ActorError, TransportError) as error:
        raise TransferBroken(f"{what} did not reach {wanted.target}: {error}") from None
    if not isinstance(answer, BlocksWritten) or answer.failure is not None:
        failure = getattr(answer, "failure", "its answer was another")
        raise TransferBroken(f"{what} was not written by {wanted.target}: {failure}")


# --- writing


async def take_blocks(
    run: WritesOnDevice, shard: Shard, message: WriteBlocks, buffers: Sequence[Buffer]
) -> BlocksWritten:
    """Check and write every piece, one by one, so that another copy waits for one at most."""
    expected = sum(piece.num_layers for piece in message.pieces)
    if len(buffers) != expected:
        return BlocksWritten(failure=f"expected {expected} buffers, got {len(buffers)}")
    left = iter(buffers)
    for piece in message.pieces:
        own = tuple(islice(left, piece.num_layers))
        failure = await run(partial(write_piece, shard, piece, own, message.encoding))
        if failure is not None:
            return BlocksWritten(failure=failure)
    return BlocksWritten(failure=None)


def write_piece(
    shard: Shard, piece: BlockPiece, buffers: Sequence[Buffer], encoding: KvEncoding
) -> str | None:
    """Check a piece and put it in its place; blocking. Why not, if it cannot be."""
    layers = range(piece.layer, piece.layer + piece.num_layers)
    if checksum(buffers) != piece.checksum:
        return f"{_named_layers(layers.start, layers.stop)}: the bytes were damaged on the way"
    try:
        blocks = block_ids(piece.blocks)
        for layer, data in zip(layers, buffers, strict=True):
            shard.write_blocks(layer, blocks, data, encoding)
    except (ModelError, ValueError) as error:
        return str(error)[:MAX_TEXT]
    return None


def _named_layers(start: int, end: int) -> str:
    return f"layer {start}" if end == start + 1 else f"layers {start}:{end}"


def block_ids(packed: bytes) -> Ids:
    """Block ids as they travel: int32, little-endian.

    Raises:
        ValueError: the bytes are no whole number of them.
    """
    return np.frombuffer(packed, np.dtype("<i4")).astype(np.int32, copy=False)
