"""A shard without a network: eight bytes of KV a token, and tokens that prove every one was there.

The one idea: a KV entry is a hash of the layer, the input and all earlier entries of its layer as
they are read back from the blocks, and the next token is a hash of the last layer's entries. So a
lost, stale or misplaced block changes the tokens, and the right output of any request is known in
advance (`expected_tokens`): that moving and rebuilding lose nothing is checked exactly, at no
compute.

The hash is a linear recurrence modulo 2^64, so that a whole prompt is a few vector operations:

    sum[0] = 0    entry[i] = z[i] + 2 * sum[i]    sum[i + 1] = M * sum[i] + entry[i]

with `z[i]` a mix of layer, position and input. `M` is odd, hence invertible, so no entry's weight
in a later sum is ever zero. What goes to the next layer is a mix of the entry. It never knows time:
how long a real shard would take is the caller's to add.

This is the reference: it reads every entry back in every step and keeps nothing beside its cache,
so that tests may trust it. Hours of a cluster are simulated over `runtime.simulation.quick_shard`,
which remembers sums and so has more to get wrong; that the two notice the same faults is tested.
"""

import numpy as np
import numpy.typing as npt

from models import layout, word_hash
from models.forward_batch import ForwardBatch
from models.interface import Bytes, ForwardResult
from models.kv_encoding import KvEncoding, check_encoding
from models.word_hash import (
    DRAW_SALT,
    LAYER_SALT,
    MASK,
    POWERS_OF_M,
    POWERS_OF_R,
    POWERS_OF_R_INVERSE,
    M,
    Words,
    mix,
    mix_int,
)

WORD_BYTES = word_hash.WORD_BYTES
"""A token's hidden state, and its KV entry in a layer."""
# What a cache holds before anything was written: stale memory must not look like zeros.
_POISON = 0xDEADDEADDEADDEAD


class EmulatedShard:
    """Layers `[start, end)` of an imaginary model, on the same seam as a real shard."""

    def __init__(
        self,
        start: int,
        end: int,
        num_layers: int,
        *,
        num_blocks: int,
        block_tokens: int,
        vocab_size: int = 32000,
        eos_token_ids: tuple[int, ...] = (),
        held: "EmulatedShard | None" = None,
    ) -> None:
        """Reserve the cache; layers that `held` has of the same geometry are shared with it."""
        self._layers = (start, end)
        self._num_layers = num_layers
        self._vocab_size = vocab_size
        self._eos = eos_token_ids
        self._geometry = (num_blocks, block_tokens)
        shares = held is not None and held._geometry == self._geometry
        # Stretches of layers, [layers, N, P] each: what was made at once is read back at once.
        self._stretches = _stretches(start, end, self._geometry, held if shares else None)
        self._entries = [entries for stretch in self._stretches for entries in stretch]

    @property
    def layers(self) -> tuple[int, int]:
        """The half-open layer range."""
        return self._layers

    @property
    def num_blocks(self) -> int:
        """KV blocks in this shard's cache: N."""
        return self._geometry[0]

    @property
    def block_tokens(self) -> int:
        """Tokens in a KV block: P."""
        return self._geometry[1]

    @property
    def resident_bytes(self) -> int:
        """An imaginary model weighs nothing."""
        return 0

    @property
    def kv_bytes(self) -> int:
        """Bytes of the KV cache."""
        return sum(entries.nbytes for entries in self._entries)

    def forward(self, batch: ForwardBatch, hidden: memoryview | None) -> ForwardResult:
        """Run the layers over one batch, writing its entries into the blocks it names.

        Raises:
            ShapeMismatch: `hidden` has not the bytes that the batch needs, or a token id is
                outside the vocabulary.
            OutOfBlocks: a block table names a block outside the cache, or too few blocks.
        """
        layout.check_blocks(batch, self.num_blocks, self.block_tokens)
        words = self._input(batch, hidden)
        places = layout.positions(batch)
        slots = layout.slots(batch, self.block_tokens)
        sums = self._read_back(batch)
        for index, layer in enumerate(range(*self._layers)):
            entries, sums[index] = self._layer(batch, layer, places, words, sums[index])
            self._entries[index].reshape(-1)[slots] = entries
            words = mix(entries)
        if self._layers[1] < self._num_layers:
            return ForwardResult(words.data.cast("B"), None)
        return ForwardResult(None, self._draw(batch, sums[-1]))

    def narrowed(self, start: int, end: int) -> "EmulatedShard":
        """A view on some of the layers, sharing their cache with this shard.

        Raises:
            ShapeMismatch: the layers are not a range of this shard's.
        """
        layout.check_part((start, end), self._layers)
        return EmulatedShard(
            start,
            end,
            self._num_layers,
            num_blocks=self.num_blocks,
            block_tokens=self.block_tokens,
            vocab_size=self._vocab_size,
            eos_token_ids=self._eos,
            held=self,
        )

    def block_bytes(self, encoding: KvEncoding = "none") -> int:
        """Bytes of a block of one layer: an entry is a hash, and goes as it is in any encoding."""
        check_encoding(encoding)
        return self.block_tokens * WORD_BYTES

    def read_blocks(
        self, layer: int, block_ids: npt.NDArray[np.int32], encoding: KvEncoding = "none"
    ) -> bytes:
        """The entries of some blocks of one layer, in the order asked; exact in any encoding."""
        check_encoding(encoding)
        index = layout.check_layer(layer, self._layers)
        layout.check_ids(block_ids, self.num_blocks)
        return bytes(self._entries[index][block_ids].tobytes())

    def write_blocks(
        self,
        layer: int,
        block_ids: npt.NDArray[np.int32],
        data: Bytes,
        encoding: KvEncoding = "none",
    ) -> None:
        """Put back what `read_blocks` of a shard of the same geometry gave."""
        check_encoding(encoding)
        index = layout.check_layer(layer, self._layers)
        layout.check_ids(block_ids, self.num_blocks)
        layout.check_bytes("blocks", data, len(block_ids) * self.block_tokens * WORD_BYTES)
        words = np.frombuffer(data, np.uint64).reshape(len(block_ids), self.block_tokens)
        self._entries[index][block_ids] = words

    def copy_blocks(self, sources: npt.NDArray[np.int32], targets: npt.NDArray[np.int32]) -> None:
        """Copy blocks onto others in every layer, as if all were read before any is written.

        Raises:
            OutOfBlocks: an id is outside the cache.
            ShapeMismatch: there are not as many sources as targets, or a target comes twice.
        """
        layout.check_copy(sources, targets, self.num_blocks)
        for stretch in self._stretches:
            stretch[:, targets] = stretch[:, sources]

    def _input(self, batch: ForwardBatch, hidden: memoryview | None) -> Words:
        if self._layers[0] == 0:
            layout.check_token_ids(batch.token_ids, self._vocab_size)
            return mix(batch.token_ids.astype(np.uint64))
        layout.check_bytes("hidden states", hidden, batch.num_tokens * WORD_BYTES)
        assert hidden is not None
        return np.frombuffer(hidden, np.uint64)

    def _read_back(self, batch: ForwardBatch) -> Words:
        """Each layer's sum over the entries already in the blocks: [layers, B]."""
        sums = np.zeros((len(self._entries), batch.num_sequences), np.uint64)
        for row, start in enumerate(batch.starts.tolist()):
            if start:
                blocks = batch.block_tables[row, : -(-start // self.block_tokens)]
                weights = POWERS_OF_M.upto(start)[::-1]
                sums[:, row] = np.concatenate(
                    [
                        stretch[:, blocks].reshape(len(stretch), -1)[:, :start] @ weights
                        for stretch in self._stretches
                    ]
                )
        return sums

    def _layer(
        self, batch: ForwardBatch, layer: int, places: layout.Ints, words: Words, sums: Words
    ) -> tuple[Words, Words]:
        """Entries of one layer for all tokens, and each sequence's sum after its last one."""
        salt = np.uint64((layer + 1) * LAYER_SALT & MASK)
        z = mix(words ^ mix(places.astype(np.uint64) + salt))
        first = np.cumsum(batch.lengths, dtype=np.int64) - batch.lengths
        offsets = np.arange(batch.num_tokens) - np.repeat(first, batch.lengths)
        longest = int(batch.lengths.max()) + 1
        r, r_inverse = POWERS_OF_R.upto(longest), POWERS_OF_R_INVERSE.upto(longest)
        terms = z * r_inverse[offsets + 1]
        before = np.cumsum(terms, dtype=np.uint64) - terms
        carried = np.repeat(sums - before[first], batch.lengths) + before
        entries = z + np.uint64(2) * (r[offsets] * carried)
        last = first + batch.lengths - 1
        after = r[batch.lengths] * (carried[last] + terms[last])
        return entries, after

    def _draw(self, batch: ForwardBatch, sums: Words) -> npt.NDArray[np.int32]:
        ends = (batch.starts.astype(np.int64) + batch.lengths).astype(np.uint64)
        chance = np.where(batch.temperatures > 0, mix(batch.seeds + ends), np.uint64(0))
        drawn = (mix(sums ^ chance ^ np.uint64(DRAW_SALT)) % np.uint64(self._vocab_size)).astype(
            np.int32
        )
        eos = np.asarray(self._eos, np.int32)
        for _ in self._eos:
            banned = batch.suppress_eos & np.isin(drawn, eos)
            if not banned.any():
                break
            drawn = np.where(banned, (drawn + 1) % self._vocab_size, drawn).astype(np.int32)
        return np.where(batch.samples, drawn, -1).astype(np.int32)


def expected_tokens(
    prompt: list[int],
    num_tokens: int,
    num_layers: int,
    *,
    vocab_size: int = 32000,
    eos_token_ids: tuple[int, ...] = (),
    min_tokens: int = 0,
    temperature: float = 0.0,
    seed: int = 0,
) -> list[int]:
    """What any correct pipeline of emulated shards must make of a prompt, computed without blocks.

    Written token by token over plain integers, as the recurrence reads, so that it shares no
    vector code with the shard it judges.
    """
    sums, generated = [0] * num_layers, list[int]()
    for place in range(len(prompt) + num_tokens - 1):
        token = prompt[place] if place < len(prompt) else generated[place - len(prompt)]
        word = mix_int(token)
        for layer in range(num_layers):
            entry = (
                mix_int(word ^ mix_int(place + (layer + 1) * LAYER_SALT)) + 2 * sums[layer] & MASK
            )
            sums[layer] = M * sums[layer] + entry & MASK
            word = mix_int(entry)
        if place + 1 >= len(prompt):
            chance = mix_int(seed + place + 1) if temperature > 0 else 0
            drawn = mix_int(sums[-1] ^ chance ^ DRAW_SALT) % vocab_size
            while drawn in eos_token_ids and len(generated) < min_tokens:
                drawn = (drawn + 1) % vocab_size
            generated.append(drawn)
    return generated


def _stretches(
    start: int, end: int, geometry: tuple[int, int], held: EmulatedShard | None
) -> list[Words]:
    """Entries of layers `[start, end)`: those that `held` has, between those that must be made."""

    def made(first: int, last: int) -> list[Words]:
        return [np.full((last - first, *geometry), _POISON, np.uint64)] if first < last else []

    first, last = layout.common_layers((start, end), None if held is None else held.layers)
    parts = [] if held is None else _part(held, first, last)
    return made(start, first) + parts + made(last, end)


def _part(held: EmulatedShard, first: int, last: int) -> list[Words]:
    """Views on the entries of layers `[first, last)`, all of which `held` has."""
    parts, layer = [], held.layers[0]
    for stretch in held._stretches:
        part = stretch[max(0, first - layer) : max(0, last - layer)]
        layer += len(stretch)
        if len(part):
            parts.append(part)
    return parts
