"""A shard without a network: eight bytes of KV a token, and tokens that prove every one was there.

The one idea: a KV entry is a hash of the layer, the input and all earlier entries of its layer as
they are read back from the blocks, and the next token is a hash of the last layer's entries. So a
lost, stale or misplaced block changes the tokens, and the right output of any request is known in
advance (`expected_tokens`): that moving and rebuilding lose nothing is checked exactly, at no
compute.

The hash is a linear recurrence modulo 2^64, so that a whole prompt is a few vector operations:

    sum[0] = 0    entry[i] = z[i] + 2 * sum[i]    sum[i + 1] = M * sum[i] + entry[i]

with `z[i]` a scramble of layer, position and input. `M` is odd, hence invertible, so no entry's
weight in a later sum is ever zero. What goes to the next layer is a scramble of the entry. It
never knows time: how long a real shard would take is the caller's to add.
"""

import numpy as np
import numpy.typing as npt

from models import layout
from models.forward_batch import ForwardBatch
from models.interface import Bytes, ForwardResult
from models.kv_encoding import KvEncoding, check_encoding

Words = npt.NDArray[np.uint64]

WORD_BYTES = 8
_MASK = (1 << 64) - 1
_M = 0x9E3779B97F4A7C15
_R = _M + 2  # sum[i + 1] = (M + 2) * sum[i] + z[i], by putting the entry in
_R_INVERSE = pow(_R, -1, 1 << 64)
_LAYER_SALT = 0xD1B54A32D192ED03
_DRAW_SALT = 0x8CB92BA72F3D8DD7
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
        self._r, self._r_inverse, self._m = _Powers(_R), _Powers(_R_INVERSE), _Powers(_M)

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
            words = _scramble(entries)
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
            return _scramble(batch.token_ids.astype(np.uint64))
        layout.check_bytes("hidden states", hidden, batch.num_tokens * WORD_BYTES)
        assert hidden is not None
        return np.frombuffer(hidden, np.uint64)

    def _read_back(self, batch: ForwardBatch) -> Words:
        """Each layer's sum over the entries already in the blocks: [layers, B]."""
        sums = np.zeros((len(self._entries), batch.num_sequences), np.uint64)
        for row, start in enumerate(batch.starts.tolist()):
            if start:
                blocks = batch.block_tables[row, : -(-start // self.block_tokens)]
                weights = self._m.upto(start)[::-1]
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
        salt = np.uint64((layer + 1) * _LAYER_SALT & _MASK)
        z = _scramble(words ^ _scramble(places.astype(np.uint64) + salt))
        first = np.cumsum(batch.lengths, dtype=np.int64) - batch.lengths
        offsets = np.arange(batch.num_tokens) - np.repeat(first, batch.lengths)
        longest = int(batch.lengths.max()) + 1
        r, r_inverse = self._r.upto(longest), self._r_inverse.upto(longest)
        terms = z * r_inverse[offsets + 1]
        before = np.cumsum(terms, dtype=np.uint64) - terms
        carried = np.repeat(sums - before[first], batch.lengths) + before
        entries = z + np.uint64(2) * (r[offsets] * carried)
        last = first + batch.lengths - 1
        after = r[batch.lengths] * (carried[last] + terms[last])
        return entries, after

    def _draw(self, batch: ForwardBatch, sums: Words) -> npt.NDArray[np.int32]:
        ends = (batch.starts.astype(np.int64) + batch.lengths).astype(np.uint64)
        chance = np.where(batch.temperatures > 0, _scramble(batch.seeds + ends), np.uint64(0))
        drawn = (
            _scramble(sums ^ chance ^ np.uint64(_DRAW_SALT)) % np.uint64(self._vocab_size)
        ).astype(np.int32)
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
        word = _mix(token)
        for layer in range(num_layers):
            entry = _mix(word ^ _mix(place + (layer + 1) * _LAYER_SALT)) + 2 * sums[layer] & _MASK
            sums[layer] = _M * sums[layer] + entry & _MASK
            word = _mix(entry)
        if place + 1 >= len(prompt):
            chance = _mix(seed + place + 1) if temperature > 0 else 0
            drawn = _mix(sums[-1] ^ chance ^ _DRAW_SALT) % vocab_size
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

    first, last = (start, start) if held is None else held.layers
    first, last = max(start, first), min(end, last)
    if held is None or first >= last:
        return made(start, end)
    return made(start, first) + _part(held, first, last) + made(last, end)


def _part(held: EmulatedShard, first: int, last: int) -> list[Words]:
    """Views on the entries of layers `[first, last)`, all of which `held` has."""
    parts, layer = [], held.layers[0]
    for stretch in held._stretches:
        part = stretch[max(0, first - layer) : max(0, last - layer)]
        layer += len(stretch)
        if len(part):
            parts.append(part)
    return parts


class _Powers:
    """The powers of one odd number modulo 2^64, grown as they are needed."""

    def __init__(self, base: int) -> None:
        self._base = np.uint64(base)
        self._known = np.ones(1, np.uint64)

    def upto(self, count: int) -> Words:
        """Powers 0 to `count - 1`."""
        if count > len(self._known):
            factors = np.full(2 * count, self._base)
            factors[0] = 1
            self._known = np.cumprod(factors, dtype=np.uint64)
        return self._known[:count]


def _scramble(words: Words) -> Words:
    """A bijection of 64-bit words without visible structure (splitmix64's finalizer)."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))


def _mix(word: int) -> int:
    """`_scramble` of one plain integer."""
    word &= _MASK
    word = (word ^ (word >> 30)) * 0xBF58476D1CE4E5B9 & _MASK
    word = (word ^ (word >> 27)) * 0x94D049BB133111EB & _MASK
    return word ^ (word >> 31)
