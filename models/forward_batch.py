"""All that one forward needs, as arguments: a ragged batch and how to draw each next token.

A batch lays the tokens of `B` sequences in one row of `T`, sequence after sequence. It is plain
numpy, so that it can be built where no torch is, and it packs into bytes of a fixed layout, so
that a stage can check every length before it touches a tensor.
"""

import struct
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from models.errors import ShapeMismatch

MAX_TOKENS = 1 << 20
MAX_SEQUENCES = 1 << 14
MAX_TABLE_WIDTH = 1 << 20
MAX_EXTRAS_BYTES = 1 << 25
_HEADER = struct.Struct("<IIII")
_DTYPES: dict[str, np.dtype[Any]] = {
    "token_ids": np.dtype(np.int32),
    "starts": np.dtype(np.int32),
    "lengths": np.dtype(np.int32),
    "block_tables": np.dtype(np.int32),
    "samples": np.dtype(np.bool_),
    "suppress_eos": np.dtype(np.bool_),
    "seeds": np.dtype(np.uint64),
    "temperatures": np.dtype(np.float32),
    "top_ps": np.dtype(np.float32),
    "min_ps": np.dtype(np.float32),
    "top_ks": np.dtype(np.int32),
}
_SEQUENCE_BYTES = sum(
    dtype.itemsize for name, dtype in _DTYPES.items() if name not in ("token_ids", "block_tables")
)
_ID_BYTES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class ForwardBatch:
    """The tokens, places and sampling parameters of one step.

    Shapes:
        token_ids: [T] int32; only the first shard embeds them.
        starts: [B] int32, position of a sequence's first token in this step: the KV entries it has.
        lengths: [B] int32, its tokens in this step; they sum to T.
        block_tables: [B, W] int32, KV block ids in order of position, padded with -1.
        samples: [B] bool, whether the token after its last one is to be drawn.
        suppress_eos: [B] bool, whether the end-of-sequence tokens must not be drawn.
        seeds: [B] uint64, the request's seed; with the position it fixes the random number.
        temperatures: [B] float32; 0 is greedy.
        top_ps, min_ps: [B] float32; 1 and 0 keep every token.
        top_ks: [B] int32; 0 keeps every token.
        extras: bytes of `sampling_extras.pack_rows`, for the last shard; none for most requests.
    """

    token_ids: npt.NDArray[np.int32]
    starts: npt.NDArray[np.int32]
    lengths: npt.NDArray[np.int32]
    block_tables: npt.NDArray[np.int32]
    samples: npt.NDArray[np.bool_]
    suppress_eos: npt.NDArray[np.bool_]
    seeds: npt.NDArray[np.uint64]
    temperatures: npt.NDArray[np.float32]
    top_ps: npt.NDArray[np.float32]
    min_ps: npt.NDArray[np.float32]
    top_ks: npt.NDArray[np.int32]
    extras: bytes = b""
    slots_by_size: dict[int, npt.NDArray[np.int64]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )
    """What `layout.slots` found, by the tokens in a block: a shard and its log both ask for it."""

    @property
    def num_tokens(self) -> int:
        """T."""
        return len(self.token_ids)

    @property
    def num_sequences(self) -> int:
        """B."""
        return len(self.lengths)

    def pack(self) -> bytes:
        """Lay all arrays into one little-endian byte string that `unpack` reads."""
        width = self.block_tables.shape[1]
        arrays = [np.asarray(getattr(self, name), dtype) for name, dtype in _DTYPES.items()]
        header = _HEADER.pack(self.num_tokens, self.num_sequences, width, len(self.extras))
        return b"".join((header, *[array.tobytes() for array in arrays], self.extras))

    @classmethod
    def unpack(cls, data: bytes) -> "ForwardBatch":
        """Read what `pack` wrote, checking every length before any array is made.

        Raises:
            ShapeMismatch: the bytes are truncated, oversized or contradict themselves.
        """
        num_tokens, num_sequences, width = _dims(data)
        counts = {"token_ids": num_tokens, "block_tables": num_sequences * width}
        arrays, offset = {}, _HEADER.size
        for name, dtype in _DTYPES.items():
            count = counts.get(name, num_sequences)
            arrays[name] = np.frombuffer(data, dtype, count, offset)
            offset += count * dtype.itemsize
        arrays["block_tables"] = arrays["block_tables"].reshape(num_sequences, width)
        return _checked(cls(**arrays, extras=bytes(data[offset:])))


def _dims(data: bytes) -> tuple[int, int, int]:
    """T, B and W."""
    if len(data) < _HEADER.size:
        raise ShapeMismatch(f"batch: expected at least {_HEADER.size} bytes, got {len(data)}")
    num_tokens, num_sequences, width, num_extras = _HEADER.unpack_from(data)
    if num_tokens > MAX_TOKENS or num_sequences > MAX_SEQUENCES or width > MAX_TABLE_WIDTH:
        raise ShapeMismatch(f"batch: T={num_tokens} B={num_sequences} W={width} over the bounds")
    if num_extras > MAX_EXTRAS_BYTES:
        raise ShapeMismatch(f"batch: {num_extras} bytes of extras, over {MAX_EXTRAS_BYTES}")
    ids = num_tokens + num_sequences * width
    expected = _HEADER.size + ids * _ID_BYTES + num_sequences * _SEQUENCE_BYTES + num_extras
    if len(data) != expected:
        raise ShapeMismatch(f"batch: expected {expected} bytes, got {len(data)}")
    return num_tokens, num_sequences, width


def _checked(batch: ForwardBatch) -> ForwardBatch:
    if (batch.lengths < 1).any() or (batch.starts < 0).any():
        raise ShapeMismatch("batch: every sequence needs a token and a position of 0 or more")
    if int(batch.lengths.sum(dtype=np.int64)) != batch.num_tokens:
        raise ShapeMismatch(
            f"batch: lengths sum to {batch.lengths.sum()}, but there are {batch.num_tokens} tokens"
        )
    return batch
