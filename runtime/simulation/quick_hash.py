"""The arithmetic of a quick shard: what every token, entry and draw must be, modulo 2^64.

The one idea: all layers are computed side by side, so that a step costs a few vector operations
however many layers there are. For token `i` of a sequence, at its place `i`, and layer `l`

    u[i] = mix(token ^ mix(i))                  what a token brings to every layer
    z[l, i] = mix(u[i] ^ salt[l])
    entry[l, i] = z[l, i] + 2 * sum[l, i]       what is kept in the KV cache
    sum[l, i + 1] = M * sum[l, i] + entry[l, i]     read back from the blocks; sum[l, 0] = 0
    v[l + 1, i] = K * v[l, i] + z[l, i] + sum[l, i]     what travels through the layers; v[0] = 0

and the next token is a mix of the last `v`. `M`, `K` and `M + 2` are odd, hence invertible: an
entry that differs, by whatever fault and for however short a time, makes all later entries of its
layer and all later tokens differ. It is as strict as `models.emulated`, whose entries also depend
on the layers below; here those meet in `v` alone, which every drawn token depends on.
"""

from functools import cache

import numpy as np
import numpy.typing as npt

from models.word_hash import (
    DRAW_SALT,
    LAYER_SALT,
    MASK,
    POWERS_OF_R,
    POWERS_OF_R_INVERSE,
    M,
    Powers,
    Words,
    mix,
    mix_int,
)

K = 0xC2B2AE3D27D4EB4F

FEW_TOKENS = 64
"""What more of them bring to all layers is not in the processor's cache when it is used."""


@cache
def powers_of_k(num_layers: int) -> tuple[Words, Words]:
    """`K ** num_layers`, [], and the powers below it, the highest first: [num_layers]."""
    powers = Powers(K).upto(num_layers + 1)[::-1].copy()
    return powers[0:1].reshape(()), powers[1:]


@cache
def salts(start: int, end: int) -> Words:
    """What tells the layers `[start, end)` apart."""
    return mix(np.arange(start + 1, end + 1, dtype=np.uint64) * np.uint64(LAYER_SALT))


class TokenWords:
    """`z` of a step's tokens: of a few, for every layer at once, for all shards that meet them."""

    __slots__ = ("_told", "_words")

    def __init__(self) -> None:
        self._told = b""
        self._words: Words = np.empty((0, 0), np.uint64)

    def z(self, u: Words, layers: tuple[int, int], num_layers: int) -> Words:
        """`z` of the tokens that bring `u`, [T], for layers `[start, end)`: [T, end - start]."""
        if len(u) > FEW_TOKENS:
            return mix(u[:, None] ^ salts(*layers))
        told = u.tobytes()
        if told != self._told or self._words.shape[1] != num_layers:
            self._told, self._words = told, mix(u[:, None] ^ salts(0, num_layers))
        return self._words[:, layers[0] : layers[1]]


def draw(last: Words, seeds: Words, ends: Words, temperatures: npt.NDArray[np.float32]) -> Words:
    """The word whose remainder is the next token, from each sequence's last `v`: [B]."""
    words = last ^ np.uint64(DRAW_SALT)
    if temperatures.any():
        words ^= np.where(temperatures > 0, mix(seeds + ends), np.uint64(0))
    return mix(words)


def expected_tokens(
    prompt: list[int],
    num_tokens: int,
    num_layers: int,
    *,
    vocab_size: int,
    temperature: float = 0.0,
    seed: int = 0,
) -> list[int]:
    """What any correct pipeline must make of a prompt, over plain integers and without blocks.

    Complexity: O((prompt + tokens) * layers), a microsecond or two each.
    """
    sums, generated = [0] * num_layers, list[int]()
    salt = [int(word) for word in salts(0, num_layers)]
    for place in range(len(prompt) + num_tokens - 1):
        token = prompt[place] if place < len(prompt) else generated[place - len(prompt)]
        u, v = mix_int(token ^ mix_int(place)), 0
        for layer in range(num_layers):
            z = mix_int(u ^ salt[layer])
            v = K * v + z + sums[layer] & MASK
            sums[layer] = M * sums[layer] + z + 2 * sums[layer] & MASK
        if place + 1 >= len(prompt):
            chance = mix_int(seed + place + 1) if temperature > 0 else 0
            generated.append(mix_int(v ^ DRAW_SALT ^ chance) % vocab_size)
    return generated


def is_right(prompt: list[int], tokens: list[int], num_layers: int, vocab_size: int) -> bool:
    """Whether these are the first tokens that a greedy request must get; quick.

    The same recurrence as `expected_tokens`, all places of a layer at once: since it is known what
    each token should follow from, no token has to wait for the one before it.
    """
    row = np.array(prompt + tokens[:-1], np.uint64)
    places = np.arange(len(row), dtype=np.uint64)
    u = mix(row ^ mix(places))
    v = np.zeros(len(tokens), np.uint64)
    r, r_inverse = POWERS_OF_R.upto(len(row) + 1), POWERS_OF_R_INVERSE.upto(len(row) + 1)
    for salt in salts(0, num_layers):
        z = mix(u ^ salt)
        terms = z * r_inverse[1:]
        sums = r[:-1] * (np.cumsum(terms, dtype=np.uint64) - terms)
        v = np.uint64(K) * v + (z + sums)[len(prompt) - 1 :]
    drawn = mix(v ^ np.uint64(DRAW_SALT)) % np.uint64(vocab_size)
    return bool((drawn == np.array(tokens, np.uint64)).all())
