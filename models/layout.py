"""Where a batch's tokens stand: positions and KV slots, and the checks that they exist.

Pure numpy, computed once a step and shared by real and emulated shards. A slot is a token's place
in the cache: `block id * P + offset in the block`.
"""

import numpy as np
import numpy.typing as npt

from models.errors import OutOfBlocks, ShapeMismatch
from models.forward_batch import ForwardBatch
from models.interface import Bytes

Ints = npt.NDArray[np.int64]


def check_blocks(batch: ForwardBatch, num_blocks: int, block_tokens: int) -> None:
    """Check that every sequence has the blocks for its tokens and that the cache has them.

    Raises:
        OutOfBlocks: a table is too short, or names a block outside `[0, num_blocks)`.
    """
    needed = blocks_needed(batch, block_tokens)
    width = batch.block_tables.shape[1]
    used = np.arange(width) < needed[:, None]
    tables = batch.block_tables
    wrong = used & ((tables < 0) | (tables >= num_blocks))
    if wrong.any() or (needed > width).any():
        row = int(np.argmax(wrong.any(axis=1) | (needed > width)))
        raise OutOfBlocks(
            f"sequence {row}: expected {needed[row]} blocks in 0:{num_blocks}, "
            f"got {tables[row, : needed[row]].tolist()[:16]}"
        )


def check_ids(block_ids: npt.NDArray[np.int32], num_blocks: int) -> None:
    """Check that every block id is one of the cache's.

    Raises:
        OutOfBlocks: one is not in `[0, num_blocks)`.
    """
    outside = block_ids[(block_ids < 0) | (block_ids >= num_blocks)]
    if len(outside):
        raise OutOfBlocks(f"block {outside[0]}: expected one in 0:{num_blocks}")


def check_copy(
    sources: npt.NDArray[np.int32], targets: npt.NDArray[np.int32], num_blocks: int
) -> None:
    """Check that blocks can be copied onto others: pairs, all in the cache, no target twice.

    Raises:
        OutOfBlocks: an id is not in `[0, num_blocks)`.
        ShapeMismatch: the two are not as many, or two blocks would go to one place.
    """
    if len(sources) != len(targets):
        raise ShapeMismatch(f"blocks: {len(sources)} cannot be copied onto {len(targets)}")
    check_ids(sources, num_blocks)
    check_ids(targets, num_blocks)
    if len(np.unique(targets)) != len(targets):
        raise ShapeMismatch("blocks: two of them would be copied onto one")


def check_part(part: tuple[int, int], layers: tuple[int, int]) -> None:
    """Check that layers are a range of a shard's.

    Raises:
        ShapeMismatch: they are not.
    """
    if not layers[0] <= part[0] < part[1] <= layers[1]:
        raise ShapeMismatch(
            f"layers {part[0]}:{part[1]}: expected a range in {layers[0]}:{layers[1]}"
        )


def common_layers(layers: tuple[int, int], held: tuple[int, int] | None) -> tuple[int, int]:
    """The layers of a new shard that another one has already; an empty range in it if none are.

    Example:
        >>> common_layers((2, 6), (0, 4)), common_layers((2, 6), (7, 9))
        ((2, 4), (2, 2))
    """
    if held is None:
        return layers[0], layers[0]
    first, last = max(layers[0], held[0]), min(layers[1], held[1])
    return (first, last) if first < last else (layers[0], layers[0])


def check_layer(layer: int, layers: tuple[int, int]) -> int:
    """The layer's place in a shard of these layers.

    Raises:
        ShapeMismatch: the shard does not hold it.
    """
    if not layers[0] <= layer < layers[1]:
        raise ShapeMismatch(f"layer {layer}: expected one of this shard, {layers[0]}:{layers[1]}")
    return layer - layers[0]


def check_bytes(what: str, data: Bytes | None, expected: int) -> None:
    """Check that bytes are there and as many as they must be.

    Raises:
        ShapeMismatch: they are not.
    """
    got = "nothing" if data is None else memoryview(data).nbytes
    if got != expected:
        raise ShapeMismatch(f"{what}: expected {expected} bytes, got {got}")


def check_token_ids(token_ids: npt.NDArray[np.int32], vocab_size: int) -> None:
    """Check that every token id has an embedding.

    Raises:
        ShapeMismatch: one is not in `[0, vocab_size)`.
    """
    outside = token_ids[(token_ids < 0) | (token_ids >= vocab_size)]
    if len(outside):
        raise ShapeMismatch(f"token id {outside[0]}: expected one in 0:{vocab_size}")


def blocks_needed(batch: ForwardBatch, block_tokens: int) -> Ints:
    """Blocks that each sequence needs for all its tokens up to this step's last: [B]."""
    ends = batch.starts.astype(np.int64) + batch.lengths
    return -(-ends // block_tokens)


def sequence_of_token(batch: ForwardBatch) -> Ints:
    """Which sequence each token of the row belongs to: [T]."""
    return np.repeat(np.arange(batch.num_sequences), batch.lengths)


def positions(batch: ForwardBatch) -> Ints:
    """Each token's position in its sequence: [T]."""
    first = np.cumsum(batch.lengths, dtype=np.int64) - batch.lengths
    offset = np.arange(batch.num_tokens) - np.repeat(first, batch.lengths)
    return offset + np.repeat(batch.starts.astype(np.int64), batch.lengths)


def slots(batch: ForwardBatch, block_tokens: int) -> Ints:
    """Each token's slot in the cache: [T]; found once a batch, not to be written to."""
    found = batch.slots_by_size.get(block_tokens)
    if found is None:
        found = batch.slots_by_size[block_tokens] = _slots(batch, block_tokens)
        found.flags.writeable = False
    return found


def _slots(batch: ForwardBatch, block_tokens: int) -> Ints:
    if batch.num_tokens == batch.num_sequences:
        # Decoding, the most frequent batch: one token each, so rows are sequences.
        place = batch.starts.astype(np.int64)
        blocks = batch.block_tables[np.arange(len(place)), place // block_tokens]
        return blocks.astype(np.int64) * block_tokens + place % block_tokens
    place = positions(batch)
    blocks = batch.block_tables[sequence_of_token(batch), place // block_tokens]
    return blocks.astype(np.int64) * block_tokens + place % block_tokens
