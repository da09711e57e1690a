"""KV blocks from one stage to another: the one transfer that every use of moving KV shares.

Hot swap, drain, moving one request and rebuilding all come down to: these blocks of these layers,
from here to there, into those blocks. The sender's stage reads and sends piece after piece on the
bulk lane, a few under way at a time; each is checked and written before it is acknowledged. Who
asked for the copy owns the blocks at both ends, so a copy that breaks leaves nothing behind: its
target was never anybody's, or is copied to again. Blocks are copied whole, because KV is
append-only (Llumnix, OSDI 2024).
"""

import asyncio
import zlib
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from actors.kernel.actor import Context
from actors.kernel.errors import ActorError
from actors.messages import BlocksSent, BlocksWritten, SendBlocks, WriteBlocks
from models.errors import ModelError
from models.interface import Shard
from transport.endpoint import Lane
from transport.errors import TransportError
from transport.frame import Buffer

PIECE_BYTES = 1 << 21
"""A piece occupies a device for about a millisecond: what a step may have to wait for it.

Half of it takes half the time and makes a copy slower by a quarter: every piece costs messages.
"""
MAX_PIECES_UNDER_WAY = 4
PIECE_TIMEOUT_S = 30.0
MAX_TEXT = 4096

Ids = npt.NDArray[np.int32]
RunsOnDevice = Callable[[Callable[[], bytes]], Awaitable[bytes]]


class TransferBroken(Exception):
    """A piece did not arrive; the text says which and why."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Some blocks of one layer: where they are, and where they go."""

    layer: int
    blocks: Ids
    target_blocks: Ids


def pieces(
    start: int, end: int, blocks: Ids, target_blocks: Ids, per_piece: int
) -> Iterator[Piece]:
    """Cut a copy into pieces of at most `per_piece` blocks of one layer."""
    for layer in range(start, end):
        for first in range(0, len(blocks), per_piece):
            part = slice(first, first + per_piece)
            yield Piece(layer, blocks[part], target_blocks[part])


async def send_blocks(
    context: Context, run: RunsOnDevice, shard: Shard, block_bytes: int, wanted: SendBlocks
) -> BlocksSent:
    """Copy what was asked for to its target; one answer: all of it, or why not.

    `block_bytes` are those of a block of one layer.
    """
    try:
        async with asyncio.timeout(wanted.deadline_s):
            num_bytes = await _send_all(context, run, shard, block_bytes, wanted)
    except TimeoutError:
        return BlocksSent(num_bytes=0, failure=f"not done within {wanted.deadline_s:g} s")
    except (TransferBroken, ModelError, ValueError) as error:
        return BlocksSent(num_bytes=0, failure=str(error)[:MAX_TEXT])
    return BlocksSent(num_bytes=num_bytes, failure=None)


async def _send_all(
    context: Context, run: RunsOnDevice, shard: Shard, block_bytes: int, wanted: SendBlocks
) -> int:
    blocks, targets = block_ids(wanted.blocks), block_ids(wanted.target_blocks)
    if len(blocks) != len(targets):
        raise TransferBroken(f"{len(blocks)} blocks cannot go into {len(targets)}")
    per_piece = max(1, PIECE_BYTES // block_bytes)
    room = asyncio.Semaphore(MAX_PIECES_UNDER_WAY)

    async def send(piece: Piece) -> None:
        try:
            data = await run(lambda: shard.read_blocks(piece.layer, piece.blocks))
            await _deliver(context, wanted, piece, data)
        finally:
            room.release()

    try:
        async with asyncio.TaskGroup() as sending:
            for piece in pieces(wanted.start, wanted.end, blocks, targets, per_piece):
                await room.acquire()
                sending.create_task(send(piece))
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from None
    return len(blocks) * (wanted.end - wanted.start) * block_bytes


async def _deliver(context: Context, wanted: SendBlocks, piece: Piece, data: bytes) -> None:
    message = WriteBlocks(
        epoch=wanted.target_epoch,
        layer=piece.layer,
        blocks=piece.target_blocks.tobytes(),
        crc32=zlib.crc32(data),
    )
    try:
        answer = await context.ask(
            wanted.target, message, buffers=(data,), lane=Lane.BULK, timeout_s=PIECE_TIMEOUT_S
        )
    except (ActorError, TransportError) as error:
        raise TransferBroken(
            f"layer {piece.layer} did not reach {wanted.target}: {error}"
        ) from None
    if not isinstance(answer, BlocksWritten) or answer.failure is not None:
        failure = getattr(answer, "failure", "its answer was another")
        raise TransferBroken(f"layer {piece.layer} was not written by {wanted.target}: {failure}")


def write_blocks(shard: Shard, message: WriteBlocks, data: Buffer) -> str | None:
    """Check a piece and put it in its place; blocking. Why not, if it cannot be."""
    if zlib.crc32(data) != message.crc32:
        return f"layer {message.layer}: the bytes were damaged on the way"
    try:
        shard.write_blocks(message.layer, block_ids(message.blocks), data)
    except (ModelError, ValueError) as error:
        return str(error)[:MAX_TEXT]
    return None


def block_ids(packed: bytes) -> Ids:
    """Block ids as they travel: int32, little-endian.

    Raises:
        ValueError: the bytes are no whole number of them.
    """
    return np.frombuffer(packed, np.dtype("<i4")).astype(np.int32, copy=False)
