"""KV in fewer bits: within its bound for any values, of exactly known size, or refused."""

from typing import Any

import hypothesis.extra.numpy as arrays
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.errors import ModelError, ShapeMismatch
from models.kv_codec import decode, encode
from models.kv_encoding import GROUP, BlockShape, KvEncoding, encoded_bytes, num_levels

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
LOSSY: list[KvEncoding] = ["int8", "int4"]
SHAPES = st.tuples(
    st.integers(1, 2), st.just(2), st.integers(1, 3), st.integers(1, 40), st.integers(1, 70)
)


def shape_of(blocks: torch.Tensor) -> BlockShape:
    _, _, num_heads, block_tokens, head_dim = blocks.shape
    return BlockShape(
        num_heads=num_heads,
        block_tokens=block_tokens,
        head_dim=head_dim,
        itemsize=blocks.dtype.itemsize,
    )


def there_and_back(blocks: torch.Tensor, encoding: KvEncoding) -> torch.Tensor:
    return decode(encode(blocks, encoding), shape_of(blocks), blocks.dtype, encoding)


def spans(side: torch.Tensor, dim: int) -> torch.Tensor:
    """What the group of each value spans, found group by group."""
    found = torch.empty_like(side, dtype=torch.float64)
    for part, out in zip(
        torch.split(side, GROUP, dim), torch.split(found, GROUP, dim), strict=True
    ):
        values = part.double()
        out.copy_((values.amax(dim, keepdim=True) - values.amin(dim, keepdim=True)).expand_as(part))
    return found


def bound(blocks: torch.Tensor, levels: int) -> torch.Tensor:
    """The most by which each value may come back wrong, as the module's docstring has it."""
    span = torch.stack([spans(blocks[:, 0], -2), spans(blocks[:, 1], -1)], 1)
    exact = span / (2 * levels) * (1 + 2**-9) + 2**-24
    largest = blocks.double().abs() + span
    arithmetic = largest * 2**-20
    return exact + arithmetic + (largest + exact) * torch.finfo(blocks.dtype).eps


@settings(max_examples=60, deadline=None)
@given(st.data(), st.sampled_from(DTYPES), st.sampled_from(LOSSY), SHAPES)
def test_no_value_comes_back_further_off_than_the_bound(
    data: st.DataObject, dtype: torch.dtype, encoding: KvEncoding, shape: tuple[int, ...]
) -> None:
    scale, offset = data.draw(st.tuples(st.floats(0, 1e3), st.floats(-6e4, 6e4)))
    normal = np.random.default_rng(data.draw(st.integers(0, 99))).normal(size=shape)
    blocks = torch.from_numpy(normal * scale + offset).to(dtype)
    blocks = blocks.nan_to_num(posinf=65504, neginf=-65504)
    error = (there_and_back(blocks, encoding).double() - blocks.double()).abs()
    assert (error <= bound(blocks, num_levels(encoding))).all()


@settings(max_examples=60, deadline=None)
@given(
    arrays.arrays(
        np.float32, (1, 2, 1, 5, 3), elements=st.floats(-9e5, 9e5, width=32), fill=st.nothing()
    ),
    st.sampled_from(LOSSY),
)
def test_values_of_any_mixture_keep_to_the_bound(
    values: "np.ndarray[Any, Any]", encoding: KvEncoding
) -> None:
    blocks = torch.from_numpy(values) / (2 if encoding == "int4" else 1)
    error = (there_and_back(blocks, encoding).double() - blocks.double()).abs()
    assert (error <= bound(blocks, num_levels(encoding))).all()


@given(st.floats(-3e38, 3e38), st.sampled_from(DTYPES), st.sampled_from(LOSSY))
def test_groups_of_equal_values_come_back_exactly(
    value: float, dtype: torch.dtype, encoding: KvEncoding
) -> None:
    most = torch.finfo(dtype).max
    blocks = torch.full((1, 2, 2, 5, 7), min(max(value, -most), most)).to(dtype)
    assert torch.equal(there_and_back(blocks, encoding), blocks)


@given(SHAPES, st.sampled_from(DTYPES), st.sampled_from(LOSSY))
def test_the_size_is_known_beforehand(
    shape: tuple[int, ...], dtype: torch.dtype, encoding: KvEncoding
) -> None:
    blocks = torch.zeros(shape, dtype=dtype)
    expected = encoded_bytes(len(blocks), shape_of(blocks), encoding)
    assert encode(blocks, encoding).numel() == expected


def test_a_key_channel_that_is_always_large_costs_the_others_nothing() -> None:
    torch.manual_seed(0)
    blocks = torch.randn(4, 2, 2, 16, 32)
    blocks[:, 0, :, :, 5] += 300
    error = (there_and_back(blocks, "int4") - blocks).abs()
    assert error[:, 0].amax() < 0.25


@pytest.mark.parametrize("encoding", LOSSY)
def test_no_blocks_are_no_bytes_and_come_back_as_none(encoding: KvEncoding) -> None:
    blocks = torch.empty(0, 2, 3, 4, 5, dtype=torch.bfloat16)
    data = encode(blocks, encoding)
    assert data.numel() == 0
    assert decode(data, shape_of(blocks), blocks.dtype, encoding).shape == blocks.shape


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize("dtype", DTYPES)
def test_what_is_no_number_is_refused(wrong: float, side: int, dtype: torch.dtype) -> None:
    blocks = torch.ones(2, 2, 2, 4, 8, dtype=dtype)
    blocks[1, side, 1, 3, 7] = wrong
    with pytest.raises(ModelError, match="NaN or infinite"):
        encode(blocks, "int8")


def test_a_group_too_wide_for_its_step_is_refused_with_what_to_do() -> None:
    blocks = torch.zeros(1, 2, 1, 4, 4)
    blocks[0, 1, 0, 0, 0] = 3e38
    blocks[0, 1, 0, 0, 1] = -3e38
    with pytest.raises(ModelError, match="send them with encoding none"):
        encode(blocks, "int4")


@pytest.mark.parametrize(
    "blocks",
    [
        torch.zeros(1, 2, 4, 4),
        torch.zeros(1, 3, 1, 4, 4),
        torch.zeros(1, 2, 1, 4, 4, dtype=torch.float64),
        torch.zeros(1, 2, 1, 4, 4, dtype=torch.int8),
    ],
    ids=["four dimensions", "three sides", "float64", "integers"],
)
def test_other_tensors_are_refused(blocks: torch.Tensor) -> None:
    with pytest.raises(ShapeMismatch, match=r"expected \[n, 2, K, P, D\]"):
        encode(blocks, "int8")


@pytest.mark.parametrize("encoding", ["none", "int2", ""])
def test_other_encodings_are_refused_with_those_there_are(encoding: Any) -> None:
    with pytest.raises(ModelError, match="expected one of int8, int4, got"):
        encode(torch.zeros(1, 2, 1, 4, 4), encoding)


@given(st.integers(-40, 40).filter(bool), st.sampled_from(LOSSY))
def test_bytes_too_few_or_too_many_are_refused(change: int, encoding: KvEncoding) -> None:
    blocks = torch.zeros(2, 2, 1, 4, 40)
    data = encode(blocks, encoding)
    wrong = torch.zeros(data.numel() + change, dtype=torch.uint8)
    with pytest.raises(ShapeMismatch, match="expected a multiple of"):
        decode(wrong, shape_of(blocks), blocks.dtype, encoding)


def test_bytes_whose_scales_are_no_numbers_are_refused() -> None:
    blocks = torch.randn(1, 2, 2, 4, 8)
    data = torch.full_like(encode(blocks, "int4"), 0xFF)
    with pytest.raises(ModelError, match="no finite number"):
        decode(data, shape_of(blocks), blocks.dtype, "int4")


def test_a_dtype_that_is_not_of_the_shape_is_refused() -> None:
    blocks = torch.zeros(1, 2, 1, 4, 4)
    data = encode(blocks, "int8")
    with pytest.raises(ShapeMismatch, match="no float of 4 bytes"):
        decode(data, shape_of(blocks), torch.float16, "int8")
