"""Names for the beginnings of sequences: what two of them must have in common to share KV blocks.

The one idea: the entries of a block depend on all tokens up to its end, so a full block is named by
a digest of its own tokens and of the name of the block before it. Equal names are equal beginnings,
at once and in another process. A part of a block has no name. (vLLM's automatic prefix caching;
SGLang, NeurIPS 2024, keeps a radix tree over tokens instead.)

It never knows a block, a pool or who holds what.
"""

from array import array
from collections.abc import Sequence
from hashlib import blake2b

DIGEST_BYTES = 16
"""Too many for two beginnings to share a name by chance, or by anybody's effort."""
_TOKEN_CODE = "i"


def extend_digests(
    digests: list[bytes], token_ids: Sequence[int], block_tokens: int, count: int
) -> None:
    """Work out the digests of the first `count` blocks of a sequence, behind those that are there.

    Args:
        digests: of the sequence's first blocks; grown in place.
        token_ids: the sequence's, each in 32 bits.
        block_tokens: P, tokens in a block. It is part of every digest.
        count: how many are wanted; as many as there are already is none to be worked out.

    Raises:
        ValueError: there are not so many full blocks.

    Example:
        >>> first, second = [], []
        >>> extend_digests(first, [1, 2, 3, 4, 5], block_tokens=2, count=2)
        >>> extend_digests(second, [1, 2, 9, 4, 5], block_tokens=2, count=2)
        >>> first[0] == second[0], first[1] == second[1]
        (True, False)
    """
    if count * block_tokens > len(token_ids):
        raise ValueError(
            f"{len(token_ids)} tokens fill {len(token_ids) // block_tokens} blocks of "
            f"{block_tokens}, but digests of {count} were asked for"
        )
    for place in range(len(digests), count):
        parent = digests[-1] if place else block_tokens.to_bytes(DIGEST_BYTES, "little")
        tokens = array(_TOKEN_CODE, token_ids[place * block_tokens : (place + 1) * block_tokens])
        digests.append(blake2b(parent + tokens.tobytes(), digest_size=DIGEST_BYTES).digest())
