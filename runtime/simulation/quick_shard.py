"""An emulated shard quick enough for hours of a cluster: a few vector operations a step.

It keeps the promise of `models.emulated` with another hash, `quick_hash`, which computes all layers
side by side, and sums up the entries of a sequence anew only when they were touched, `quick_cache`.
A hidden state is two words: what the token brings to every layer, and what came of the layers.

The two are not one: the other is what tests of actors trust, because it remembers nothing; this is
what makes a simulated day affordable, because it does. What both are made of is
`models.word_hash`; one suite of what a shard must do runs over both, and another puts the same
faults into both.
"""

from itertools import accumulate

import numpy as np
import numpy.typing as npt

from models import layout
from models.forward_batch import ForwardBatch
from models.interface import Bytes, ForwardResult
from models.kv_encoding import KvEncoding, check_encoding
from models.word_hash import POWERS_OF_R, POWERS_OF_R_INVERSE, WORD_BYTES, R, Words, mix
from runtime.simulation.quick_cache import CacheView
from runtime.simulation.quick_hash import draw, powers_of_k
from runtime.simulation.step_facts import StepFacts, StepReader

_R = np.array(R, np.uint64)
ROW_BYTES = 2 * WORD_BYTES
"""One token's hidden state."""


class QuickShard:
    """Layers `[start, end)` of an imaginary model."""

    def __init__(
        self,
        start: int,
        end: int,
        num_layers: int,
        *,
        num_blocks: int,
        block_tokens: int,
        vocab_size: int,
        reader: StepReader | None = None,
        held: "QuickShard | None" = None,
    ) -> None:
        """Reserve the cache; layers that `held` has of the same geometry are shared with it."""
        self._reader = reader or StepReader()
        self._layers, self._num_layers, self._vocab_size = (start, end), num_layers, vocab_size
        self._geometry = (num_blocks, block_tokens)
        shares = held is not None and held._geometry == self._geometry
        self._views = _views(start, end, self._geometry, held if shares else None)
        ends = list(accumulate((view.num_layers for view in self._views), initial=start))
        self._firsts = ends[:-1]

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
        return sum(view.num_bytes for view in self._views)

    def forward(self, batch: ForwardBatch, hidden: memoryview | None) -> ForwardResult:
        """Run the layers over one batch, writing its entries into the blocks it names.

        Raises:
            ShapeMismatch: `hidden` has not the bytes that the batch needs, or a token id is
                outside the vocabulary.
            OutOfBlocks: a block table names a block outside the cache, or too few blocks.
        """
        return self.run(batch, self.read(batch), hidden)

    def read(self, batch: ForwardBatch) -> StepFacts:
        """What follows from a batch alone.

        Raises:
            OutOfBlocks: a block table names a block outside the cache, or too few blocks.
        """
        return self._reader.read(batch, *self._geometry)

    def run(self, batch: ForwardBatch, step: StepFacts, hidden: memoryview | None) -> ForwardResult:
        """`forward` of a batch that was read."""
        rows = self._input(batch, hidden)
        words = step.tokens.z(rows[:, 0], self._layers, self._num_layers)
        first = self._layers[0]
        for view, layer in zip(self._views, self._firsts, strict=True):
            z = words[:, layer - first : layer - first + view.num_layers]
            rows[:, 1] = _run(view, batch, step, z, rows[:, 1])
        if self._layers[1] < self._num_layers:
            return ForwardResult(rows.data.cast("B"), None)
        return ForwardResult(None, self._draw(batch, step, rows[:, 1]))

    def narrowed(self, start: int, end: int) -> "QuickShard":
        """A view on some of the layers, sharing their cache with this shard.

        Raises:
            ShapeMismatch: the layers are not a range of this shard's.
        """
        layout.check_part((start, end), self._layers)
        return QuickShard(
            start,
            end,
            self._num_layers,
            num_blocks=self.num_blocks,
            block_tokens=self.block_tokens,
            vocab_size=self._vocab_size,
            reader=self._reader,
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
        layout.check_layer(layer, self._layers)
        layout.check_ids(block_ids, self.num_blocks)
        view, column = self._find(layer)
        return bytes(view.read(column, block_ids).tobytes())

    def write_blocks(
        self,
        layer: int,
        block_ids: npt.NDArray[np.int32],
        data: Bytes,
        encoding: KvEncoding = "none",
    ) -> None:
        """Put back what `read_blocks` of a shard of the same geometry gave."""
        check_encoding(encoding)
        layout.check_layer(layer, self._layers)
        layout.check_ids(block_ids, self.num_blocks)
        layout.check_bytes("blocks", data, len(block_ids) * self.block_tokens * WORD_BYTES)
        words = np.frombuffer(data, np.uint64).reshape(len(block_ids), self.block_tokens)
        view, column = self._find(layer)
        view.write(column, block_ids, words)

    def copy_blocks(self, sources: npt.NDArray[np.int32], targets: npt.NDArray[np.int32]) -> None:
        """Copy blocks onto others in every layer, as if all were read before any is written.

        Raises:
            OutOfBlocks: an id is outside the cache.
            ShapeMismatch: there are not as many sources as targets, or a target comes twice.
        """
        layout.check_copy(sources, targets, self.num_blocks)
        for view in self._views:
            view.copy(sources, targets)

    def _find(self, layer: int) -> tuple[CacheView, int]:
        """The view that has a layer, and its column there."""
        index = max(i for i, first in enumerate(self._firsts) if first <= layer)
        return self._views[index], layer - self._firsts[index]

    def _input(self, batch: ForwardBatch, hidden: memoryview | None) -> Words:
        """What each token brings and what came of it so far: [T, 2]."""
        if self._layers[0] == 0:
            layout.check_token_ids(batch.token_ids, self._vocab_size)
            rows = np.zeros((batch.num_tokens, 2), np.uint64)
            places = layout.positions(batch).astype(np.uint64)
            rows[:, 0] = mix(batch.token_ids.astype(np.uint64) ^ mix(places))
            return rows
        layout.check_bytes("hidden states", hidden, batch.num_tokens * ROW_BYTES)
        assert hidden is not None
        return np.frombuffer(hidden, np.uint64).reshape(-1, 2).copy()

    def _draw(self, batch: ForwardBatch, step: StepFacts, last: Words) -> npt.NDArray[np.int32]:
        words = draw(last[step.last], batch.seeds, step.ends.astype(np.uint64), batch.temperatures)
        drawn = (words % np.uint64(self._vocab_size)).astype(np.int32)
        return np.where(batch.samples, drawn, np.int32(-1))


def _run(view: CacheView, batch: ForwardBatch, step: StepFacts, z: Words, v: Words) -> Words:
    """Run the layers of one view; returns what came of them: [T]."""
    sums, are_whole = view.sums(batch.block_tables, step)
    before, after = _sums_inside(z, sums, step)
    seen = z + before
    view.append(step, seen + before, after, are_whole=are_whole)
    highest, lower = powers_of_k(view.num_layers)
    out: Words = seen @ lower
    out += highest * v
    return out


def _sums_inside(z: Words, sums: Words, step: StepFacts) -> tuple[Words, Words]:
    """Each token's sum before it, and each sequence's after its last: [T, L], [B, L]."""
    if step.is_decoding:
        return sums, _R * sums + z
    lengths, last = step.lengths, step.last
    first = last + 1 - lengths
    offsets = np.arange(len(z)) - np.repeat(first, lengths)
    longest = int(lengths.max()) + 1
    r, r_inverse = POWERS_OF_R.upto(longest), POWERS_OF_R_INVERSE.upto(longest)
    terms = z * r_inverse[offsets + 1][:, None]
    before = np.cumsum(terms, axis=0, dtype=np.uint64)
    before -= terms
    carried = np.repeat(sums - before[first], lengths, axis=0)
    carried += before
    return r[offsets][:, None] * carried, r[lengths][:, None] * (carried[last] + terms[last])


def _views(
    start: int, end: int, geometry: tuple[int, int], held: QuickShard | None
) -> list[CacheView]:
    """Entries of layers `[start, end)`: those that `held` has, between those that must be made."""

    def made(first: int, last: int) -> list[CacheView]:
        return [CacheView.reserve(last - first, *geometry)] if first < last else []

    first, last = layout.common_layers((start, end), None if held is None else held.layers)
    parts = [] if held is None else _part(held, first, last)
    return made(start, first) + parts + made(last, end)


def _part(held: QuickShard, first: int, last: int) -> list[CacheView]:
    """Views on the entries of layers `[first, last)`, all of which `held` has."""
    parts = []
    for view, layer in zip(held._views, held._firsts, strict=True):
        begin, stop = max(0, first - layer), min(view.num_layers, last - layer)
        if begin < stop:
            parts.append(view.part(begin, stop))
    return parts
