"""KV in fewer bits between real shards: about the same at the other end, exactly as it was sent."""

import random
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch

from actors.kernel.actor import Actor
from actors.kernel.ref import Ref
from actors.messages import BlockPiece, BlocksSent, BlocksWritten, SendBlocks, WriteBlocks
from actors.migration import (
    ENCODED_PIECE_BYTES,
    Ids,
    Payload,
    Piece,
    read_piece,
    send_blocks,
    take_blocks,
    write_piece,
)
from models.kv_encoding import KV_ENCODINGS, KvEncoding
from models.shard import TorchShard, load_shard
from tests.actors.emulated_pipeline import EmulatedDevice
from tests.models.driving import make_batch, run
from tests.models.families import NUM_LAYERS, make_checkpoint
from tests.support.actor_worlds import World, on_virtual_time, settle
from transport.checksum import checksum
from transport.codec import Codec, Message
from transport.errors import DecodeError
from transport.frame import Buffer

NUM_BLOCKS, BLOCK_TOKENS = 12, 4
SPLITS = ((0, 2, NUM_LAYERS), (0, 3, NUM_LAYERS))
PROMPT = [random.Random(0).randrange(256) for _ in range(27)]
TABLE, NEW_TABLE = [7, 2, 5, 9, 0, 1, 3], [4, 5, 6, 11, 10, 2, 8]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return make_checkpoint("llama", tmp_path_factory.mktemp("checkpoints"))


def pipeline(checkpoint: Path, bounds: Sequence[int], dtype: str = "float32") -> list[TorchShard]:
    return [
        load_shard(
            checkpoint, start, end, num_blocks=NUM_BLOCKS, block_tokens=BLOCK_TOKENS, dtype=dtype
        )
        for start, end in pairwise(bounds)
    ]


def prefilled(checkpoint: Path, dtype: str = "float32") -> list[TorchShard]:
    """A pipeline that has computed all of the prompt but its last token."""
    shards = pipeline(checkpoint, SPLITS[0], dtype)
    run(shards, make_batch([PROMPT[:-1]], [0], [TABLE], samples=False))
    return shards


def ids(blocks: Sequence[int]) -> Ids:
    return np.asarray(blocks, np.int32)


class Writer(Actor):
    """A stage that only takes blocks."""

    def __init__(self, shard: TorchShard, device: EmulatedDevice) -> None:
        self.shard = shard
        self.device = device
        self.num_bytes = 0

    async def receive(
        self, message: Message, sender: Ref | None, buffers: Sequence[Buffer]
    ) -> Message | None:
        assert isinstance(message, WriteBlocks)
        self.num_bytes += sum(memoryview(data).nbytes for data in buffers)
        return await take_blocks(self.device.run, self.shard, message, buffers)


async def handed(
    world: World,
    sources: Sequence[TorchShard],
    targets: Sequence[TorchShard],
    encoding: KvEncoding,
) -> tuple[list[BlocksSent], int]:
    """Copy the request between two pipelines cut in other places; answers and bytes that came."""
    sender, device = await world.play("source"), EmulatedDevice(world.rng)
    place = await world.open("targets")
    writers = [Writer(shard, device) for shard in targets]
    refs = [place.spawn(writer, name=f"stage{i}") for i, writer in enumerate(writers)]
    await settle()
    answers = []
    for source in sources:
        for target, ref in zip(targets, refs, strict=True):
            start = max(source.layers[0], target.layers[0])
            end = min(source.layers[1], target.layers[1])
            if start >= end:
                continue
            wanted = SendBlocks(
                epoch=1,
                start=start,
                end=end,
                blocks=ids(TABLE).tobytes(),
                target=ref,
                target_epoch=2,
                target_blocks=ids(NEW_TABLE).tobytes(),
                deadline_s=60.0,
                encoding=encoding,
            )
            # Three blocks a piece, so that some layers are cut.
            block_bytes = ENCODED_PIECE_BYTES // 3
            context = sender.context
            answers.append(await send_blocks(context, device.run, source, block_bytes, wanted))
    return answers, sum(writer.num_bytes for writer in writers)


def holder(shards: Sequence[TorchShard], layer: int) -> TorchShard:
    return next(shard for shard in shards if shard.layers[0] <= layer < shard.layers[1])


@pytest.mark.parametrize("encoding", KV_ENCODINGS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@on_virtual_time
async def test_a_request_arrives_in_a_pipeline_cut_elsewhere(
    world: World, checkpoint: Path, encoding: KvEncoding, dtype: str
) -> None:
    sources, targets = prefilled(checkpoint, dtype), pipeline(checkpoint, SPLITS[1], dtype)
    answers, num_bytes = await handed(world, sources, targets, encoding)
    assert [answer.failure for answer in answers] == [None] * 3
    blocks = NUM_LAYERS * len(TABLE)
    assert sum(answer.num_bytes for answer in answers) == num_bytes
    assert num_bytes == blocks * sources[0].block_bytes(encoding)
    saved = blocks * sources[0].block_bytes() - num_bytes
    assert sum(answer.saved_bytes for answer in answers) == saved
    assert (saved > 0) == (encoding != "none")
    for layer in range(NUM_LAYERS):
        source, target = holder(sources, layer), holder(targets, layer)
        sent = read_kv(source, layer, TABLE, dtype)
        came = read_kv(target, layer, NEW_TABLE, dtype)
        share = {"none": 0.0, "int8": 1 / 255, "int4": 1 / 15}[encoding]
        span = sent.amax() - sent.amin()
        assert (came - sent).abs().amax() <= share * span


def read_kv(shard: TorchShard, layer: int, table: Sequence[int], dtype: str) -> torch.Tensor:
    data = bytearray(shard.read_blocks(layer, ids(table)))
    return torch.frombuffer(data, dtype=getattr(torch, dtype)).float()


@on_virtual_time
async def test_in_8_bits_the_next_token_is_the_same_as_without_the_way(
    world: World, checkpoint: Path
) -> None:
    sources, targets = prefilled(checkpoint), pipeline(checkpoint, SPLITS[1])
    await handed(world, sources, targets, "int8")
    start = len(PROMPT) - 1
    assert run(targets, make_batch([PROMPT[-1:]], [start], [NEW_TABLE])) == run(
        sources, make_batch([PROMPT[-1:]], [start], [TABLE])
    )


@on_virtual_time
async def test_kv_that_is_no_number_breaks_the_copy_with_its_reason(
    world: World, checkpoint: Path
) -> None:
    sources, targets = prefilled(checkpoint), pipeline(checkpoint, SPLITS[1])
    nans = b"\xff" * sources[0].block_bytes()
    sources[0].write_blocks(1, ids(TABLE[:1]), nans)
    answers, _ = await handed(world, sources, targets, "int8")
    assert answers[0].num_bytes == 0
    assert "NaN or infinite" in str(answers[0].failure)
    assert [answer.failure for answer in answers[1:]] == [None, None]


def piece_of(checkpoint: Path, encoding: KvEncoding) -> tuple[TorchShard, Payload]:
    """A shard to write to, and a piece of two layers for it."""
    source = prefilled(checkpoint)[0]
    payload = read_piece(source, Piece(0, 2, ids(TABLE), ids(NEW_TABLE)), encoding)
    return pipeline(checkpoint, SPLITS[0])[0], payload


@pytest.mark.parametrize("encoding", KV_ENCODINGS)
def test_damaged_pieces_are_refused_and_change_nothing(
    checkpoint: Path, encoding: KvEncoding
) -> None:
    target, payload = piece_of(checkpoint, encoding)
    first, second = payload.buffers
    damaged = bytearray(second)
    damaged[len(damaged) // 2] ^= 1
    failure = write_piece(target, payload.head, (first, damaged), encoding)
    assert failure == "layers 0:2: the bytes were damaged on the way"
    assert is_empty(target)


def test_a_piece_in_another_encoding_than_it_says_is_refused(checkpoint: Path) -> None:
    pairs: list[tuple[KvEncoding, KvEncoding]] = [
        ("int8", "int4"),
        ("int8", "none"),
        ("none", "int8"),
        ("int4", "int8"),
    ]
    for sent, said in pairs:
        target, payload = piece_of(checkpoint, sent)
        failure = write_piece(target, payload.head, payload.buffers, said)
        assert "blocks: expected" in str(failure)


def test_a_piece_whose_buffer_is_too_short_is_refused(checkpoint: Path) -> None:
    target, payload = piece_of(checkpoint, "int4")
    short = (payload.buffers[0], memoryview(payload.buffers[1])[:-1])
    head = msgspec.structs.replace(payload.head, checksum=checksum(short))
    assert "blocks: expected" in str(write_piece(target, head, short, "int4"))


@on_virtual_time
async def test_a_message_with_a_buffer_too_few_is_refused_and_changes_nothing(
    world: World, checkpoint: Path
) -> None:
    target, payload = piece_of(checkpoint, "int4")
    message = WriteBlocks(epoch=1, pieces=(payload.head, payload.head), encoding="int4")
    device = EmulatedDevice(world.rng)
    answer = await take_blocks(device.run, target, message, payload.buffers)
    assert answer == BlocksWritten(failure="expected 4 buffers, got 2")
    assert is_empty(target)


@on_virtual_time
async def test_of_several_pieces_the_first_that_is_damaged_ends_the_writing(
    world: World, checkpoint: Path
) -> None:
    target, payload = piece_of(checkpoint, "int8")
    wrong = msgspec.structs.replace(payload.head, checksum=bytes(8))
    message = WriteBlocks(epoch=1, pieces=(wrong, payload.head), encoding="int8")
    device = EmulatedDevice(world.rng)
    answer = await take_blocks(device.run, target, message, payload.buffers * 2)
    assert answer == BlocksWritten(failure="layers 0:2: the bytes were damaged on the way")
    assert is_empty(target)


def is_empty(shard: TorchShard) -> bool:
    """Whether nothing was ever written to the blocks of its layers."""
    layers = range(*shard.layers)
    return not any(any(shard.read_blocks(layer, ids(NEW_TABLE))) for layer in layers)


@pytest.mark.parametrize(
    "message",
    [
        SendBlocks(
            epoch=1,
            start=0,
            end=1,
            blocks=b"",
            target=Ref("instant://a", 1, "b"),
            target_epoch=1,
            target_blocks=b"",
            deadline_s=1.0,
        ),
        WriteBlocks(epoch=1, pieces=(BlockPiece(0, 1, b"", bytes(8)),)),
    ],
)
def test_an_unknown_encoding_does_not_get_past_the_wire(message: SendBlocks | WriteBlocks) -> None:
    codec = Codec([SendBlocks, WriteBlocks])
    assert codec.decode(codec.encode(message)) == message
    unknown: Any = "int2"
    with pytest.raises(DecodeError, match="int2"):
        codec.decode(codec.encode(msgspec.structs.replace(message, encoding=unknown)))
