"""The KV entries of a quick shard, and what was already summed up of them.

The one idea: a sum over entries need not be formed again while nobody has touched them. Every
sequence that was summed is a chain; each of its blocks carries a stamp that says of which chain it
is and where. Whoever writes a block gives it another stamp. So a sum is used again only if every
block of the sequence's table still stands where it stood and holds what it held; else the blocks
are read. Views share entries, and each tells the others what it wrote.

Shapes: entries are [N * P, L], a token's layers side by side. They are kept XORed with a poison, so
that memory which was never written is never zeros and takes no room before it is.
"""

import weakref
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from runtime.simulation.quick_hash import POWERS_OF_M, Words
from runtime.simulation.step_facts import Ints, StepFacts

POISON = np.uint64(0xDEADDEADDEADDEAD)
_INDEX_BITS, _BLOCK_BITS = 20, 22
_NOBODY = -1
_NOT_A_CHAIN = np.int64(-1 << 40)
"""Whatever is added to it, no chain's stamp."""


@dataclass(eq=False)
class _Entries:
    """Memory for some layers, and all who look at it."""

    words: Words
    views: "weakref.WeakSet[CacheView]" = field(default_factory=weakref.WeakSet)


class CacheView:
    """Some layers' entries; made by `reserve` or from another view."""

    def __init__(self, entries: _Entries, columns: slice, num_blocks: int) -> None:
        self._entries = entries
        self._words = entries.words[:, columns]
        self._columns = columns
        self._num_blocks = num_blocks
        self._block_tokens = len(entries.words) // num_blocks
        self.num_layers = self._words.shape[1]
        self._stamps = np.full(num_blocks, _NOBODY, np.int64)
        self._lives = np.zeros(num_blocks, np.int64)
        self._lengths = np.zeros(num_blocks, np.int64)
        self._newest = np.zeros(num_blocks, np.int64)
        self._sums = np.zeros((num_blocks, self.num_layers), np.uint64)
        entries.views.add(self)

    @classmethod
    def reserve(cls, num_layers: int, num_blocks: int, block_tokens: int) -> "CacheView":
        """Memory for new layers, full of poison."""
        words = np.zeros((num_blocks * block_tokens, num_layers), np.uint64)
        return cls(_Entries(words), slice(0, num_layers), num_blocks)

    def part(self, first: int, last: int) -> "CacheView":
        """A view on layers `[first, last)` of these."""
        start = self._columns.start + first
        return CacheView(self._entries, slice(start, start + last - first), self._num_blocks)

    @property
    def num_bytes(self) -> int:
        """Bytes of the entries."""
        return self._words.nbytes

    # --- blocks

    def read(self, layer: int, block_ids: npt.NDArray[np.int32]) -> Words:
        """The entries of some blocks of one layer: [len(block_ids), P]."""
        return self._by_block()[block_ids, :, layer] ^ POISON

    def write(self, layer: int, block_ids: npt.NDArray[np.int32], words: Words) -> None:
        """Put entries of one layer into blocks."""
        self._by_block()[block_ids, :, layer] = words ^ POISON
        self._touch(block_ids)

    def copy(self, sources: npt.NDArray[np.int32], targets: npt.NDArray[np.int32]) -> None:
        """Copy blocks onto others, as if all were read before any is written."""
        blocks = self._by_block()
        blocks[targets] = blocks[sources]
        self._touch(targets)

    # --- sequences

    def sums(self, tables: npt.NDArray[np.int32], step: StepFacts) -> Words:
        """Each sequence's sum over the entries before its start, by its block table: [B, L]."""
        heads = tables[:, 0]
        sums = self._sums[heads]
        stamps = self._stamps[tables[:, : len(step.index)]]
        right = stamps == self._chains(heads)[:, None] + step.index
        right |= step.unused
        known = right.all(axis=1)
        known &= self._lengths[heads] == step.starts
        known &= step.starts > 0
        for row in () if known.all() else np.flatnonzero(~known):
            sums[row] = self._read_sum(tables[row], int(step.starts[row]))
            self._begin(tables[row], int(step.starts[row]))
        return sums

    def append(
        self, tables: npt.NDArray[np.int32], step: StepFacts, words: Words, sums: Words
    ) -> None:
        """Put the entries of new tokens behind those of their sequences.

        Shapes:
            words: [T, L]; sums: [B, L], over all entries up to each sequence's end.
        """
        self._words[step.slots] = words ^ POISON
        heads, rows = tables[:, 0], np.arange(len(tables))
        self._lengths[heads], self._sums[heads] = step.ends, sums
        self._newest[heads] = rows  # of sequences that share their first block, one is a chain
        chains = np.where(self._newest[heads] == rows, self._chains(heads), _NOT_A_CHAIN)
        blocks = tables[step.written_row, step.written_index]
        self._stamps[blocks] = chains[step.written_row] + step.written_index
        for view in self._entries.views:
            if view is not self:
                view._stamps[blocks] = _NOBODY

    def _chains(self, heads: npt.NDArray[np.int32]) -> Ints:
        """The stamps of the first blocks of the chains that begin there now."""
        chains: Ints = (self._lives[heads] << np.int64(_BLOCK_BITS)) + heads
        return chains << np.int64(_INDEX_BITS)

    def _begin(self, table: npt.NDArray[np.int32], length: int) -> None:
        """A new chain, whose first `length` entries have just been read."""
        head = int(table[0])
        self._lives[head] += 1
        used = -(-length // self._block_tokens)
        self._stamps[table[:used]] = self._chains(table[:1]) + np.arange(used)

    def _read_sum(self, table: npt.NDArray[np.int32], length: int) -> Words:
        """The sum over the first `length` entries, read from the blocks."""
        if not length:
            return np.zeros(self.num_layers, np.uint64)
        blocks = self._by_block()[table[: -(-length // self._block_tokens)]]
        words = blocks.reshape(-1, self.num_layers)[:length] ^ POISON
        weights = POWERS_OF_M.upto(length)[::-1]
        return np.asarray(weights @ words, np.uint64)

    def _touch(self, block_ids: npt.NDArray[np.int32]) -> None:
        for view in self._entries.views:
            view._stamps[block_ids] = _NOBODY

    def _by_block(self) -> Words:
        return self._words.reshape(self._num_blocks, self._block_tokens, self.num_layers)
