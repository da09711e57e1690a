"""KV blocks in 8 or 4 bits a value, for the way between two caches only.

The one idea: a group of values is its least one, a step, and each value's number of steps above it.
Keys are grouped along the tokens of a block, channel by channel, because some channels of a key are
large in every token and would stretch the step of all others in it; values, which have no such
channels, are grouped along the head, token by token (KIVI, ICML 2024). With the demo model that
makes the divergence a quarter of what keys grouped by token make, for an eighth more bytes
(`docs/benchmarks.md`). Quantising KV for transport alone is ThunderServe's (MLSys 2025): what
arrives is of the cache's own dtype again.

A group's least value travels in the cache's dtype, so that a group of equal values comes back
exactly whatever their size; its step travels as float16, rounded up before values are counted in
it, so that its rounding costs no error of its own.

Error of every value `x` that comes back as `x'`, with `levels` 255 or 15:

    |x - x'| <= (max - min) / (2 levels) * (1 + 2^-9) + 2^-24 + rounding to float32 and the dtype

where max and min are its group's. All operations are whole-tensor ones, on the tensor's device.
"""

from typing import Any, cast

import torch

from models.errors import ModelError, ShapeMismatch
from models.kv_encoding import (
    GROUP,
    SCALE_BYTES,
    BlockShape,
    KvEncoding,
    encoded_bytes,
    num_groups,
    num_levels,
)

_ALONG_TOKENS, _ALONG_HEAD = -2, -1
_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def encode(blocks: torch.Tensor, encoding: KvEncoding) -> torch.Tensor:
    """Blocks of one layer as bytes for the way.

    Args:
        blocks: keys and values, finite, in float32, float16 or bfloat16.
        encoding: `int8` or `int4`.

    Shapes:
        blocks: [n, 2, K, P, D]; returns uint8 [encoded_bytes(n, ...)], on the same device.

    Raises:
        ModelError: there is no such encoding, a value is NaN or infinite, or a group's step does
            not fit float16.
        ShapeMismatch: the tensor has another shape or dtype.
    """
    levels = num_levels(encoding)
    _check_blocks(blocks)
    if not blocks.numel():
        return torch.empty(0, dtype=torch.uint8, device=blocks.device)
    keys = _quantise(blocks[:, 0], _ALONG_TOKENS, levels)
    values = _quantise(blocks[:, 1], _ALONG_HEAD, levels)
    return torch.cat(
        [*_parameters(keys), *_parameters(values), *_packed(keys[2], values[2], levels)]
    )


def decode(
    data: torch.Tensor, shape: BlockShape, dtype: torch.dtype, encoding: KvEncoding
) -> torch.Tensor:
    """What `encode` was given, but for the error that the encoding has.

    Shapes:
        data: uint8 [encoded_bytes(n, ...)]; returns [n, 2, K, P, D] on the same device.

    Raises:
        ModelError: there is no such encoding, or a group's parameters are no finite numbers.
        ShapeMismatch: the bytes are not those of a whole number of blocks.
    """
    levels = num_levels(encoding)
    if dtype not in _DTYPES or dtype.itemsize != shape.itemsize:
        raise ShapeMismatch(f"KV blocks: {dtype} is no float of {shape.itemsize} bytes")
    num_blocks = _num_blocks(data, shape, encoding)
    blocks = torch.empty(
        (num_blocks, 2, shape.num_heads, shape.block_tokens, shape.head_dim),
        dtype=dtype,
        device=data.device,
    )
    if not blocks.numel():
        return blocks
    sides = ((blocks[:, 0], _ALONG_TOKENS), (blocks[:, 1], _ALONG_HEAD))
    sizes = [_num_parameters(side, dim) for side, dim in sides]
    assert sum(sizes) == num_blocks * num_groups(shape)
    lows, steps, rest = [], [], data
    for size in sizes:
        low, step, rest = _split(rest, size * dtype.itemsize, size * SCALE_BYTES)
        # Copied, since a tensor of a wider type must begin where such numbers may.
        lows.append(low.clone().view(dtype))
        steps.append(step.clone().view(torch.float16))
    _check_parameters(lows, steps)
    codes = _unpacked(rest, levels)
    for (side, dim), low, step, code in zip(sides, lows, steps, codes, strict=True):
        _restore(side, dim, low, step, code)
    return blocks


def _check_blocks(blocks: torch.Tensor) -> None:
    if blocks.dtype not in _DTYPES or blocks.dim() != 5 or blocks.shape[1] != 2:
        raise ShapeMismatch(
            f"KV blocks: expected [n, 2, K, P, D] in float32, float16 or bfloat16, "
            f"got {list(blocks.shape)} in {blocks.dtype}"
        )


def _num_blocks(data: torch.Tensor, shape: BlockShape, encoding: KvEncoding) -> int:
    one = encoded_bytes(1, shape, encoding)
    num_blocks = data.numel() // one if one else 0
    if data.dtype != torch.uint8 or data.dim() != 1 or data.numel() != num_blocks * one:
        raise ShapeMismatch(
            f"KV blocks in {encoding}: expected a multiple of {one} bytes, got {data.numel()}"
        )
    return num_blocks


_Quantised = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""Each group's least value and step, and each value's code."""


def _quantise(side: torch.Tensor, dim: int, levels: int) -> _Quantised:
    """Codes of one side, [n, K, P, D], in groups along one of its last two dimensions."""
    grouped = _grouped(side.float(), dim)
    low, high = grouped.amin(dim, keepdim=True), grouped.amax(dim, keepdim=True)
    exact = (high - low) / levels
    # Rounded to the nearest, this is never below `exact`: so the last code is the greatest value.
    step = (exact * (1 + 2**-10) + 2**-25).half()
    if not bool((low.isfinite() & high.isfinite()).all()):
        raise ModelError("KV blocks: a value is NaN or infinite and cannot be quantised")
    if not bool(step.isfinite().all()):
        raise ModelError(
            f"KV blocks: a group spans {float(exact.max()) * levels:g}, and a step of 1/{levels} "
            f"of it is beyond float16; send them with encoding none"
        )
    steps = (grouped - low).div_(step.float()).round_()
    codes = steps.to(torch.uint8).flatten(dim - 1, dim).narrow(dim, 0, side.shape[dim])
    return low.to(side.dtype), step, codes.reshape(-1)


def _grouped(side: torch.Tensor, dim: int) -> torch.Tensor:
    """Dimension `dim` as (groups, values of one); the last value again where some are missing."""
    length = side.shape[dim]
    size = min(GROUP, length)
    if missing := -length % size:
        last = side.narrow(dim, length - 1, 1)
        side = torch.cat([side, *[last] * missing], dim)
    unflatten: Any = side.unflatten
    return cast("torch.Tensor", unflatten(dim, (-1, size)))


def _parameters(quantised: _Quantised) -> list[torch.Tensor]:
    return [part.reshape(-1).view(torch.uint8) for part in quantised[:2]]


def _packed(keys: torch.Tensor, values: torch.Tensor, levels: int) -> list[torch.Tensor]:
    """Codes as bytes; of 4 bits, a key's and a value's in one."""
    return [keys | values << 4] if levels == 15 else [keys, values]


def _unpacked(codes: torch.Tensor, levels: int) -> tuple[torch.Tensor, torch.Tensor]:
    if levels == 15:
        return codes & 15, codes >> 4
    keys, values = codes.view(2, -1)
    return keys, values


def _num_parameters(side: torch.Tensor, dim: int) -> int:
    """Groups of a side."""
    length = side.shape[dim]
    return side.numel() // length * -(-length // GROUP)


def _split(data: torch.Tensor, *sizes: int) -> tuple[torch.Tensor, ...]:
    return torch.split(data, [*sizes, data.numel() - sum(sizes)])


def _check_parameters(lows: list[torch.Tensor], steps: list[torch.Tensor]) -> None:
    sound = [low.isfinite().all() for low in lows]
    sound += [(step.isfinite() & (step >= 0)).all() for step in steps]
    if not bool(torch.stack(sound).all()):
        raise ModelError("KV blocks: a group's least value or step is no finite number")


def _restore(
    side: torch.Tensor, dim: int, low: torch.Tensor, step: torch.Tensor, codes: torch.Tensor
) -> None:
    """Put the values of one side, [n, K, P, D], in their places."""
    grouped = _grouped(codes.view(side.shape), dim).float()
    shape = list(grouped.shape)
    shape[dim] = 1
    found = grouped.mul_(step.float().view(shape)).add_(low.float().view(shape))
    found = found.flatten(dim - 1, dim).narrow(dim, 0, side.shape[dim])
    if side.dtype == torch.float16:
        # Half a step above the greatest float16 would be infinite.
        most = torch.finfo(torch.float16).max
        found = found.clamp(-most, most)
    side.copy_(found)
