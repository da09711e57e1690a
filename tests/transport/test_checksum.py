"""Buffers and what stands for them."""

from hypothesis import given
from hypothesis import strategies as st

from transport.checksum import CHECKSUM_BYTES, checksum


@given(st.lists(st.binary(max_size=64), max_size=6))
def test_how_bytes_are_cut_into_buffers_does_not_matter(parts: list[bytes]) -> None:
    assert checksum(parts) == checksum([b"".join(parts)])
    assert len(checksum(parts)) == CHECKSUM_BYTES


@given(st.binary(min_size=1, max_size=256), st.integers(min_value=0))
def test_one_bit_more_or_less_is_noticed(data: bytes, where: int) -> None:
    bit = where % (8 * len(data))
    damaged = bytearray(data)
    damaged[bit // 8] ^= 1 << bit % 8
    assert checksum([damaged]) != checksum([data])


def test_the_order_of_buffers_matters() -> None:
    assert checksum([b"a", b"b"]) != checksum([b"b", b"a"])
