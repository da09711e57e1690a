import struct
from dataclasses import fields

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.errors import ShapeMismatch
from models.forward_batch import MAX_TOKENS, ForwardBatch
from tests.models.driving import make_batch


@st.composite
def batches(draw: st.DrawFn) -> ForwardBatch:
    count = draw(st.integers(1, 5))
    lengths = draw(st.lists(st.integers(1, 6), min_size=count, max_size=count))
    width = draw(st.integers(1, 4))
    ids = st.integers(0, 2**31 - 1)
    return make_batch(
        [draw(st.lists(ids, min_size=n, max_size=n)) for n in lengths],
        [draw(st.integers(0, 10**6)) for _ in lengths],
        [draw(st.lists(ids, min_size=1, max_size=width)) for _ in lengths],
        samples=[draw(st.booleans()) for _ in lengths],
        seeds=[draw(st.integers(0, 2**64 - 1)) for _ in lengths],
        temperatures=[draw(st.floats(0, 100, width=32)) for _ in lengths],
        top_ks=[draw(st.integers(0, 2**31 - 1)) for _ in lengths],
    )


@given(batches())
def test_unpack_gives_back_what_pack_took(batch: ForwardBatch) -> None:
    again = ForwardBatch.unpack(batch.pack())
    for field in fields(ForwardBatch):
        if not field.init:
            continue
        before, after = getattr(batch, field.name), getattr(again, field.name)
        assert getattr(before, "dtype", bytes) == getattr(after, "dtype", bytes)
        np.testing.assert_array_equal(before, after)


@given(batches(), st.data())
def test_every_truncation_is_refused(batch: ForwardBatch, data: st.DataObject) -> None:
    packed = batch.pack()
    cut = data.draw(st.integers(0, len(packed) - 1))
    with pytest.raises(ShapeMismatch):
        ForwardBatch.unpack(packed[:cut])


@given(batches(), st.binary(min_size=1, max_size=64))
def test_bytes_too_many_are_refused(batch: ForwardBatch, more: bytes) -> None:
    with pytest.raises(ShapeMismatch, match=r"expected .* bytes, got"):
        ForwardBatch.unpack(batch.pack() + more)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_batch_or_a_shape_mismatch(data: bytes) -> None:
    try:
        batch = ForwardBatch.unpack(data)
    except ShapeMismatch:
        return
    assert batch.pack() == data


def test_counts_over_the_bounds_are_refused_before_anything_is_made() -> None:
    with pytest.raises(ShapeMismatch, match="over the bounds"):
        ForwardBatch.unpack(struct.pack("<IIII", MAX_TOKENS + 1, 1, 1, 0))


def _altered(name: str, values: list[int]) -> bytes:
    batch = make_batch([[1, 2], [3]], [0, 4], [[0], [1]])
    getattr(batch, name)[:] = values
    return batch.pack()


@pytest.mark.parametrize(
    ("name", "values", "text"),
    [
        ("lengths", [2, 2], "lengths sum to 4, but there are 3 tokens"),
        ("lengths", [3, 0], "needs a token"),
        ("lengths", [4, -1], "needs a token"),
        ("starts", [0, -1], "position of 0 or more"),
    ],
)
def test_contradictions_are_refused(name: str, values: list[int], text: str) -> None:
    with pytest.raises(ShapeMismatch, match=text):
        ForwardBatch.unpack(_altered(name, values))


def test_lengths_whose_sum_overflows_are_refused() -> None:
    with pytest.raises(ShapeMismatch):
        ForwardBatch.unpack(_altered("lengths", [2**31 - 1, 2**31 - 1]))
