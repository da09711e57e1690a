import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduling.prefixes import DIGEST_BYTES, extend_digests

TOKENS = st.lists(st.integers(0, 3), max_size=24)
SIZES = st.integers(1, 5)


def digests_of(tokens: list[int], size: int) -> list[bytes]:
    digests: list[bytes] = []
    extend_digests(digests, tokens, size, len(tokens) // size)
    return digests


@given(first=TOKENS, second=TOKENS, size=SIZES)
def test_digests_are_equal_as_far_as_the_tokens_are(
    first: list[int], second: list[int], size: int
) -> None:
    pairs = zip(digests_of(first, size), digests_of(second, size), strict=False)
    for place, (one, other) in enumerate(pairs):
        end = (place + 1) * size
        assert (one == other) == (first[:end] == second[:end])


@given(tokens=TOKENS, size=SIZES, data=st.data())
def test_digests_do_not_depend_on_when_they_are_worked_out(
    tokens: list[int], size: int, data: st.DataObject
) -> None:
    whole = digests_of(tokens, size)
    digests: list[bytes] = []
    for count in sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=4))):
        extend_digests(digests, tokens, size, count)
        assert digests == whole[: len(digests)]
        assert len(digests) == count
    assert all(len(digest) == DIGEST_BYTES for digest in whole)


def test_blocks_of_other_sizes_have_other_digests() -> None:
    assert digests_of([1, 2], 1)[0] != digests_of([1, 2], 2)[0]
    assert not set(digests_of([0] * 12, 2)) & set(digests_of([0] * 12, 3))


def test_the_order_of_tokens_counts_and_so_do_large_ones() -> None:
    chains = [digests_of(tokens, 2)[0] for tokens in ([1, 2], [2, 1], [1, 258], [513, 0])]
    assert len(set(chains)) == 4
    assert digests_of([(1 << 31) - 1] * 2, 2) != digests_of([0] * 2, 2)


def test_a_part_of_a_block_has_no_digest() -> None:
    with pytest.raises(ValueError, match="7 tokens fill 3 blocks of 2, but digests of 4"):
        extend_digests([], [1] * 7, 2, 4)
