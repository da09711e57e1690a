"""How KV blocks may be written for the way, and how many bytes that takes.

Both ends agree by the message that carries the blocks; the bytes say nothing of themselves, so that
their number follows from the cache's geometry alone and is checked on receipt. Whoever only sends
orders or plans needs no torch for it: `kv_codec` does the work.
"""

from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from models.errors import ModelError

KvEncoding: TypeAlias = Literal["none", "int8", "int4"]
KV_ENCODINGS: tuple[KvEncoding, ...] = get_args(KvEncoding)

GROUP = 32
"""The most values that share a scale.

At 4 bits and in a cache of two-byte numbers a group of 32 costs 5 bits a value in all, one of 64
would cost 4.5 and, of normally distributed values, spans 1.12 times as much.
"""
SCALE_BYTES = 2
_BITS: dict[KvEncoding, int] = {"int8": 8, "int4": 4}


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockShape:
    """What a block of one layer holds.

    Shapes:
        [2, K, P, D], keys before values: num_heads is K, block_tokens P, head_dim D.

    Units: itemsize is bytes of a number.
    """

    num_heads: int
    block_tokens: int
    head_dim: int
    itemsize: int

    @property
    def num_values(self) -> int:
        """Numbers of the keys, and as many of the values."""
        return self.num_heads * self.block_tokens * self.head_dim


def check_encoding(encoding: KvEncoding) -> None:
    """Refuse what is no encoding, where it makes no other difference.

    Raises:
        ModelError: it is not one of `KV_ENCODINGS`.
    """
    if encoding not in KV_ENCODINGS:
        raise ModelError(
            f"KV encoding: expected one of {', '.join(KV_ENCODINGS)}, got {encoding!r}"
        )


def num_levels(encoding: KvEncoding) -> int:
    """Steps between the least and the greatest value of a group: 255 or 15.

    Raises:
        ModelError: the encoding has none, or there is no such encoding.
    """
    if encoding not in _BITS:
        raise ModelError(f"KV encoding: expected one of {', '.join(_BITS)}, got {encoding!r}")
    return (1 << _BITS[encoding]) - 1


def encoded_bytes(num_blocks: int, shape: BlockShape, encoding: KvEncoding) -> int:
    """Exactly how many bytes blocks of one layer are on the way.

    Raises:
        ModelError: there is no such encoding.

    Example:
        >>> shape = BlockShape(num_heads=8, block_tokens=16, head_dim=128, itemsize=2)
        >>> [encoded_bytes(1, shape, encoding) for encoding in ("none", "int8", "int4")]
        [65536, 38912, 22528]
    """
    if encoding == "none":
        return num_blocks * 2 * shape.num_values * shape.itemsize
    num_codes = shape.num_values if num_levels(encoding) == 15 else 2 * shape.num_values
    return num_blocks * (num_codes + num_groups(shape) * (shape.itemsize + SCALE_BYTES))


def num_groups(shape: BlockShape) -> int:
    """Groups of a block: of keys along the tokens, of values along the head."""
    keys = -(-shape.block_tokens // GROUP) * shape.head_dim
    values = -(-shape.head_dim // GROUP) * shape.block_tokens
    return shape.num_heads * (keys + values)
