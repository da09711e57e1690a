"""KV blocks from one stage to another: all of it once and checked, or one answer that says why."""

import asyncio
import random
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.kernel.actor import Actor
from actors.kernel.ref import Ref
from actors.messages import (
    BlockPiece,
    BlocksSent,
    BlocksWritten,
    Cancel,
    SendBlocks,
    WriteBlocks,
)
from actors.migration import (
    MAX_PARCELS_UNDER_WAY,
    PARCEL_BYTES,
    PARCEL_TIMEOUT_S,
    PIECE_BYTES,
    Ids,
    block_ids,
    pieces,
    send_blocks,
    take_blocks,
    write_piece,
)
from models.emulated import WORD_BYTES, EmulatedShard
from tests.actors.emulated_pipeline import NUM_LAYERS, EmulatedDevice
from tests.support.actor_worlds import PATIENCE_S, Played, World, on_virtual_time, settle
from transport.checksum import checksum
from transport.codec import Message
from transport.frame import Buffer

T = TypeVar("T")
BLOCK_BYTES = 4 * WORD_BYTES
TWO_PER_PIECE = PIECE_BYTES // 2
"""Told as the bytes of a block, it makes pieces of two."""


def ids(*blocks: int) -> Ids:
    return np.asarray(blocks, np.int32)


def shard_of(
    *, seed: int | None = None, layers: tuple[int, int] = (0, NUM_LAYERS)
) -> EmulatedShard:
    """A shard; with a seed, every block of it has bytes of its own."""
    shard = EmulatedShard(*layers, NUM_LAYERS, num_blocks=16, block_tokens=4)
    if seed is not None:
        rng = random.Random(seed)
        for layer in range(*layers):
            shard.write_blocks(layer, ids(*range(16)), rng.randbytes(16 * BLOCK_BYTES))
    return shard


class Runs(Protocol):
    """The part of a device that a copy uses."""

    def run(self, function: Callable[[], T]) -> "asyncio.Future[T]": ...


class Turns:
    """A device that counts what it is given to do."""

    def __init__(self, inner: Runs) -> None:
        self._inner = inner
        self.count = 0

    def run(self, function: Callable[[], T]) -> "asyncio.Future[T]":
        self.count += 1
        return self._inner.run(function)


class Writer(Actor):
    """A stage that only takes blocks."""

    def __init__(self, rng: random.Random) -> None:
        self.shard = shard_of()
        self.device: Runs = EmulatedDevice(rng)
        self.written: list[tuple[int, int]] = []

    async def receive(
        self, message: Message, sender: Ref | None, buffers: Sequence[Buffer]
    ) -> Message | None:
        assert isinstance(message, WriteBlocks)
        self.written += [
            (layer, block)
            for piece in message.pieces
            for layer in range(piece.layer, piece.layer + piece.num_layers)
            for block in block_ids(piece.blocks).tolist()
        ]
        return await take_blocks(self.device.run, self.shard, message, buffers)


class Sending:
    """A stage that sends, and whatever it sends to."""

    def __init__(self, world: World, sender: Played) -> None:
        self.world = world
        self.sender = sender
        self.shard = shard_of(seed=1)
        self.device: Runs = EmulatedDevice(world.rng)

    async def send(
        self,
        target: Ref,
        blocks: Ids,
        targets: Ids,
        *,
        layers: tuple[int, int] = (0, 2),
        block_bytes: int = TWO_PER_PIECE,
        deadline_s: float = 60.0,
    ) -> BlocksSent:
        wanted = SendBlocks(
            epoch=1,
            start=layers[0],
            end=layers[1],
            blocks=blocks.tobytes(),
            target=target,
            target_epoch=2,
            target_blocks=targets.tobytes(),
            deadline_s=deadline_s,
        )
        context = self.sender.context
        return await send_blocks(context, self.device.run, self.shard, block_bytes, wanted)


async def sending_in(world: World) -> Sending:
    sender = await world.play("source")
    await settle()
    return Sending(world, sender)


async def writer_in(world: World) -> tuple[Writer, Ref]:
    writer = Writer(world.rng)
    return writer, (await world.open("target")).spawn(writer, name="stage")


# --- cutting


@given(
    start=st.integers(0, 5),
    num_layers=st.integers(0, 5),
    blocks=st.lists(st.integers(0, 99), unique=True, max_size=40),
    per_piece=st.integers(1, 12),
)
def test_pieces_are_of_bounded_size_and_cover_all_exactly_once(
    start: int, num_layers: int, blocks: list[int], per_piece: int
) -> None:
    targets = [block + 1000 for block in blocks]
    cut = list(pieces(start, start + num_layers, ids(*blocks), ids(*targets), per_piece))
    assert all(1 <= (piece.end - piece.start) * len(piece.blocks) <= per_piece for piece in cut)
    assert [
        (layer, int(source), int(target))
        for piece in cut
        for layer in range(piece.start, piece.end)
        for source, target in zip(piece.blocks, piece.target_blocks, strict=True)
    ] == [
        (layer, source, target)
        for layer in range(start, start + num_layers)
        for source, target in zip(blocks, targets, strict=True)
    ]


def test_few_blocks_of_many_layers_are_few_pieces() -> None:
    cut = list(pieces(0, 1000, ids(1, 2), ids(3, 4), 1 << 20))
    assert [piece.end - piece.start for piece in cut] == [64] * 15 + [40]


@given(st.lists(st.integers(0, (1 << 31) - 1)))
def test_block_ids_arrive_as_they_were_sent(blocks: list[int]) -> None:
    assert block_ids(np.asarray(blocks, "<i4").tobytes()).tolist() == blocks


@given(st.binary(max_size=9).filter(lambda data: len(data) % 4))
def test_bytes_that_are_no_block_ids_are_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="multiple"):
        block_ids(data)


# --- writing


def head(data: bytes, *, layer: int = 2, blocks: bytes = ids(3, 5).tobytes()) -> BlockPiece:
    return BlockPiece(layer, 1, blocks, checksum([data]))


def write(shard: EmulatedShard, head: BlockPiece, data: bytes) -> str | None:
    return write_piece(shard, head, (data,), "none")


DATA = random.Random(3).randbytes(2 * BLOCK_BYTES)


def test_a_piece_goes_where_it_belongs_and_nowhere_else() -> None:
    shard, same = shard_of(seed=1), shard_of(seed=1)
    assert write(shard, head(DATA), DATA) is None
    same.write_blocks(2, ids(3, 5), DATA)
    for layer in range(NUM_LAYERS):
        everything = ids(*range(16))
        assert shard.read_blocks(layer, everything) == same.read_blocks(layer, everything)


@given(st.integers(0, 2 * BLOCK_BYTES * 8 - 1))
def test_a_piece_with_any_bit_wrong_is_refused_and_changes_nothing(bit: int) -> None:
    damaged = bytearray(DATA)
    damaged[bit // 8] ^= 1 << bit % 8
    shard = shard_of(seed=1)
    before = shard.read_blocks(2, ids(3, 5))
    failure = write(shard, head(DATA), bytes(damaged))
    assert failure == "layer 2: the bytes were damaged on the way"
    assert shard.read_blocks(2, ids(3, 5)) == before


@pytest.mark.parametrize(
    "changes",
    [
        {"layer": NUM_LAYERS},
        {"blocks": ids(3, 16).tobytes()},
        {"blocks": ids(-1, 3).tobytes()},
        {"blocks": ids(3).tobytes()},
        {"blocks": b"123"},
    ],
    ids=["no such layer", "no such block", "below all blocks", "too many bytes", "no ids"],
)
def test_a_piece_that_has_no_place_is_refused_with_a_reason(changes: dict[str, Any]) -> None:
    shard = shard_of(seed=1)
    before = [shard.read_blocks(layer, ids(*range(16))) for layer in range(NUM_LAYERS)]
    assert write(shard, head(DATA, **changes), DATA)
    after = [shard.read_blocks(layer, ids(*range(16))) for layer in range(NUM_LAYERS)]
    assert after == before


# --- sending


@pytest.mark.parametrize("block_bytes", [BLOCK_BYTES, TWO_PER_PIECE, PIECE_BYTES * 3])
@on_virtual_time
async def test_what_is_sent_is_there_under_its_new_ids(world: World, block_bytes: int) -> None:
    sending, (writer, target) = await sending_in(world), await writer_in(world)
    blocks, targets = ids(4, 1, 9, 15, 2), ids(0, 7, 3, 11, 5)
    answer = await sending.send(target, blocks, targets, layers=(1, 4), block_bytes=block_bytes)
    assert answer == BlocksSent(num_bytes=15 * BLOCK_BYTES, failure=None)
    for layer in range(1, 4):
        assert writer.shard.read_blocks(layer, targets) == sending.shard.read_blocks(layer, blocks)
    assert sorted(writer.written) == sorted(
        (layer, int(block)) for layer in range(1, 4) for block in targets
    )


@on_virtual_time
async def test_every_piece_is_a_turn_of_its_own_at_both_devices(world: World) -> None:
    """So that a step that comes meanwhile waits for one piece and not for a message."""
    sending, (writer, target) = await sending_in(world), await writer_in(world)
    reading, writing = Turns(sending.device), Turns(writer.device)
    sending.device, writer.device = reading, writing
    answer = await sending.send(target, ids(*range(10)), ids(*range(10)), layers=(0, 3))
    assert answer.failure is None
    num_pieces = 3 * 10 // 2
    assert (reading.count, writing.count) == (num_pieces, num_pieces)


@on_virtual_time
async def test_to_send_no_blocks_is_done_at_once(world: World) -> None:
    sending, (writer, target) = await sending_in(world), await writer_in(world)
    assert await sending.send(target, ids(), ids()) == BlocksSent(num_bytes=0, failure=None)
    assert writer.written == []


@on_virtual_time
async def test_only_a_few_messages_are_under_way_at_a_time(world: World) -> None:
    sending, target = await sending_in(world), await world.play("target")
    target.postponed[WriteBlocks] = []
    postponed = target.postponed[WriteBlocks]
    task = sending.sender.context.start_task(
        sending.send(target.ref, ids(*range(16)), ids(*range(16)), deadline_s=PATIENCE_S)
    )
    num_messages = 2 * 16 // 2 * PIECE_BYTES // PARCEL_BYTES
    for done in range(num_messages):
        await settle()
        assert len(postponed) == min(num_messages, done + MAX_PARCELS_UNDER_WAY)
        postponed[done].reply(BlocksWritten(failure=None))
    await settle()
    assert task.result().failure is None


@on_virtual_time
async def test_blocks_that_are_more_than_their_places_are_not_begun(world: World) -> None:
    sending, (writer, target) = await sending_in(world), await writer_in(world)
    answer = await sending.send(target, ids(1, 2, 3), ids(1, 2))
    assert answer == BlocksSent(num_bytes=0, failure="3 blocks cannot go into 2")
    assert writer.written == []


@on_virtual_time
async def test_layers_that_are_not_here_are_a_failure_and_no_crash(world: World) -> None:
    sending, (_, target) = await sending_in(world), await writer_in(world)
    answer = await sending.send(target, ids(1), ids(1), layers=(5, 8))
    assert answer.num_bytes == 0
    assert "6" in str(answer.failure)


@on_virtual_time
async def test_a_piece_that_the_target_refuses_ends_the_copy_with_its_reason(world: World) -> None:
    sending, (writer, target) = await sending_in(world), await writer_in(world)
    answer = await sending.send(target, ids(1, 2), ids(1, 99))
    assert answer.num_bytes == 0
    assert f"layers 0:2 was not written by {target}: " in str(answer.failure)
    assert len(writer.written) <= 4 * MAX_PARCELS_UNDER_WAY


@on_virtual_time
async def test_another_answer_than_was_asked_for_ends_the_copy(world: World) -> None:
    sending, target = await sending_in(world), await world.play("target")
    target.answers[WriteBlocks] = lambda _: Cancel(request="r")
    answer = await sending.send(target.ref, ids(1), ids(1), layers=(0, 1))
    assert str(answer.failure).endswith(": its answer was another")


@pytest.mark.parametrize("num_written", [0, 1, 5])
@on_virtual_time
async def test_a_target_that_dies_ends_the_copy_at_once(world: World, num_written: int) -> None:
    sending, target = await sending_in(world), await world.play("target")
    target.postponed[WriteBlocks] = []
    everything = ids(*range(16))
    task = sending.sender.context.start_task(sending.send(target.ref, everything, everything))
    for done in range(num_written):
        await settle()
        target.postponed[WriteBlocks][done].reply(BlocksWritten(failure=None))
    await settle()
    world.lose("target")
    await settle(PARCEL_TIMEOUT_S / 10)
    answer = task.result()
    assert answer.num_bytes == 0
    assert f" did not reach {target.ref}: " in str(answer.failure)


@pytest.mark.parametrize(
    ("deadline_s", "why"),
    [(5.0, "not done within 5 s"), (PARCEL_TIMEOUT_S * 2, "layers 0:2 did not reach ")],
)
@on_virtual_time
async def test_a_target_that_never_answers_is_given_up(
    world: World, deadline_s: float, why: str
) -> None:
    sending, target = await sending_in(world), await world.play("target")
    target.postponed[WriteBlocks] = []
    async with asyncio.timeout(PARCEL_TIMEOUT_S * 3 / 2):
        answer = await sending.send(target.ref, ids(1), ids(1), deadline_s=deadline_s)
    assert answer.num_bytes == 0
    assert str(answer.failure).startswith(why)
