"""The KV entries of a quick shard, and what was already summed up of them.

The one idea: a sum over entries need not be formed again while nobody has touched them. Every
sequence that was summed is a chain, found by its first block: it has a sum, the key of its table up
to there, and owns its blocks. Whoever writes a block of another's breaks the chain that owns it. So
a sum is used again only if the sequence's table has the chain's key and the chain is whole; else
the blocks are read. Views share entries, and each tells the others what it wrote.

Shapes: entries are [N * P, L], a token's layers side by side. They are kept XORed with a poison, so
that memory which was never written is never zeros and takes no room before it is.
"""

import weakref
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from models.word_hash import POWERS_OF_M, Words
from runtime.simulation.step_facts import StepFacts
from runtime.simulation.table_keys import BROKEN, Ints

POISON = np.array(0xDEADDEADDEADDEAD, np.uint64)
_Blocks = npt.NDArray[np.int32] | Ints
_BLOCK_BITS = 32
_BLOCK_MASK = np.int64((1 << _BLOCK_BITS) - 1)
_NEXT_LIFE = np.int64(1 << _BLOCK_BITS)


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
        # By first block. The last one is of nobody: it owns what no chain does.
        self._keys = np.full(num_blocks + 1, BROKEN)
        self._sums = np.zeros((num_blocks + 1, self.num_layers), np.uint64)
        self._chains = np.arange(num_blocks + 1)
        self._owners = np.full(num_blocks, num_blocks)
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
        self._tell_all(block_ids)

    def copy(self, sources: npt.NDArray[np.int32], targets: npt.NDArray[np.int32]) -> None:
        """Copy blocks onto others, as if all were read before any is written."""
        blocks = self._by_block()
        blocks[targets] = blocks[sources]
        self._tell_all(targets)

    # --- sequences

    def sums(self, tables: npt.NDArray[np.int32], step: StepFacts) -> tuple[Words, bool]:
        """Each sequence's sum over the entries before its start, by its block table: [B, L].

        Returns:
            The sums, and whether every sequence has a chain of its own now.
        """
        sums: Words = self._sums.take(step.heads, 0)
        keys = self._keys[step.heads]
        if keys.tobytes() == step.known_bytes and not step.has_twins:
            return sums, True
        for row in np.flatnonzero((keys != step.known_by) | step.has_twins).tolist():
            sums[row] = self._read_sum(tables[row], int(step.starts[row]))
            self._begin(tables[row], step, row)
        # Where two sequences have a block in common, the first one lost it to the second.
        are_whole = (self._keys[step.heads] == step.known_by).all()
        return sums, bool(are_whole) and not step.has_twins

    def append(self, step: StepFacts, words: Words, sums: Words, *, are_whole: bool) -> None:
        """Put the entries of new tokens behind those of their sequences.

        Shapes:
            words: [T, L]; sums: [B, L], over all entries up to each sequence's end.
        """
        self._words[step.slots] = words ^ POISON
        self._sums[step.heads] = sums
        self._keys[step.heads] = step.known_then if are_whole else BROKEN
        if len(step.fresh):
            self._claim(step)
        if len(self._entries.views) > 1:
            self._tell_others(step.slots // self._block_tokens)

    def _claim(self, step: StepFacts) -> None:
        """Have the new blocks owned by the chains that begin to write them."""
        self._break(step.fresh)
        self._owners[step.fresh] = self._chains[step.fresh_heads]
        if (self._keys[step.heads] == BROKEN).any():  # one took a block of another's
            self._keys[step.heads] = BROKEN

    def _begin(self, table: npt.NDArray[np.int32], step: StepFacts, row: int) -> None:
        """A new chain, whose entries have just been read."""
        head = int(table[0])
        blocks = table[: -(-int(step.starts[row]) // self._block_tokens)]
        self._break(blocks)
        self._chains[head] += _NEXT_LIFE
        self._owners[blocks] = self._chains[head]
        self._keys[head] = step.known_by[row]

    def _break(self, blocks: _Blocks) -> None:
        """No chain that has one of these blocks is whole any more."""
        owners = self._owners[blocks]
        heads = owners & _BLOCK_MASK
        self._keys[heads[self._chains[heads] == owners]] = BROKEN

    def _tell_all(self, block_ids: npt.NDArray[np.int32]) -> None:
        self._break(block_ids)
        self._tell_others(block_ids)

    def _tell_others(self, blocks: _Blocks) -> None:
        for view in self._entries.views:
            if view is not self:
                view._break(blocks)

    def _read_sum(self, table: npt.NDArray[np.int32], length: int) -> Words:
        """The sum over the first `length` entries, read from the blocks."""
        if not length:
            return np.zeros(self.num_layers, np.uint64)
        blocks = self._by_block()[table[: -(-length // self._block_tokens)]]
        words = blocks.reshape(-1, self.num_layers)[:length] ^ POISON
        weights = POWERS_OF_M.upto(length)[::-1]
        return np.asarray(weights @ words, np.uint64)

    def _by_block(self) -> Words:
        return self._words.reshape(self._num_blocks, self._block_tokens, self.num_layers)
