"""How likely tokens were, as bytes on the way from the last stage to whoever asked.

Each entry names the token's place in its sequence, so that what is told twice, as after a loss, is
known to be the same. It knows no tensor and no text.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from models.errors import ShapeMismatch

_HEAD = struct.Struct("<2I")
MAX_CANDIDATES = 1024


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """One token's natural logarithm of probability before any shaping, and the likeliest ones'.

    Attributes:
        position: the token's place in its sequence, prompt included.
        token_id: the token that stands there.
        logprob: its own.
        rank: how many candidates are likelier, and one.
        top: (token id, logprob), the likeliest first.
    """

    position: int
    token_id: int
    logprob: float
    rank: int
    top: tuple[tuple[int, float], ...]


def pack_logprobs(
    positions: Sequence[int] | npt.NDArray[np.int64],
    ids: npt.NDArray[np.int32],
    values: npt.NDArray[np.float32],
    ranks: npt.NDArray[np.int32],
) -> bytes:
    """Entries as bytes; several such strings may follow one another.

    Shapes:
        positions, ranks: [n]. ids, values: [n, k + 1], the token itself before the likeliest.
    """
    arrays = (
        np.asarray(positions, "<i4"),
        np.asarray(ranks, "<i4"),
        np.asarray(ids, "<i4"),
        np.asarray(values, "<f4"),
    )
    head = _HEAD.pack(len(positions), ids.shape[1] - 1)
    return head + b"".join(array.tobytes() for array in arrays)


def unpack_logprobs(data: bytes) -> list[TokenLogprobs]:
    """Read what `pack_logprobs` wrote, once or several times.

    Raises:
        ShapeMismatch: the bytes are truncated, or more candidates than there may be.
    """
    entries: list[TokenLogprobs] = []
    offset = 0
    while offset < len(data):
        offset = _unpack_some(data, offset, entries)
    return entries


def _unpack_some(data: bytes, offset: int, entries: list[TokenLogprobs]) -> int:
    if len(data) < offset + _HEAD.size:
        raise ShapeMismatch("logprobs: truncated in a head")
    count: int
    num_top: int
    count, num_top = _HEAD.unpack_from(data, offset)
    offset += _HEAD.size
    end = offset + 4 * count * (2 + 2 * (num_top + 1))
    if num_top > MAX_CANDIDATES or end > len(data):
        raise ShapeMismatch(f"logprobs: {count} entries of {num_top} in {len(data)} bytes")
    width = num_top + 1
    whole = np.frombuffer(data, "<i4", (end - offset) // 4, offset)
    positions, ranks = whole[:count].tolist(), whole[count : 2 * count].tolist()
    ids = whole[2 * count : (2 + width) * count].reshape(count, width).tolist()
    values = whole[(2 + width) * count :].view("<f4").reshape(count, width).tolist()
    entries.extend(
        TokenLogprobs(place, row[0], likely[0], rank, tuple(zip(row[1:], likely[1:], strict=True)))
        for place, rank, row, likely in zip(positions, ranks, ids, values, strict=True)
    )
    return end
