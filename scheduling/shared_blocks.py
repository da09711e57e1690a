"""KV blocks that several sequences hold, and those kept when nobody does, in case they are wanted.

The one idea: a full block whose entries are computed never changes, so whoever begins with the same
tokens may hold it as well. When its last holder lets go it is kept and counts as free; blocks that
hold nothing are handed out first, then the kept ones, the longest unused before the others and the
end of a sequence before its beginning. A few more than are wanted are let go of where those that
are free are scattered, so that a table is still read as a run, with room for it to grow. (vLLM:
Kwon et al., SOSP 2023, section 4.3, and its automatic prefix caching.)

Beside that it remembers of which blocks no stage here has a log. It never knows a sequence or what
a token is: a beginning is named by digests, `prefixes`.
"""

from collections import Counter, OrderedDict
from collections.abc import Iterable, Sequence
from itertools import islice

from scheduling.blocks import BlockPool

_FRACTION_FOR_A_RUN = 16
"""So large a part of a pool is let go of at most for the sake of a table in one run."""


class SharedBlocks:
    """A pool's blocks by their holders and by what is in them.

    Attributes:
        shares: whether blocks are found again at all; if not, none is kept.
        unlogged: blocks whose entries were not computed by steps of these stages.
    """

    def __init__(self, pool: BlockPool, *, shares: bool = True) -> None:
        self.shares = shares
        self.unlogged: set[int] = set()
        self._pool = pool
        self._holders: dict[int, int] = {}
        self._digests: dict[int, bytes] = {}  # of full blocks that are computed, held or kept
        self._index: dict[bytes, list[int]] = {}  # of those with one digest the first is found
        self._kept: OrderedDict[int, None] = OrderedDict()  # held by nobody, longest unused first

    @property
    def num_blocks(self) -> int:
        """Blocks, free or held."""
        return self._pool.num_blocks

    @property
    def block_tokens(self) -> int:
        """Tokens in a block."""
        return self._pool.block_tokens

    @property
    def num_free(self) -> int:
        """Blocks that nobody holds, kept ones among them."""
        return self._pool.num_free + len(self._kept)

    @property
    def num_kept(self) -> int:
        """Blocks that nobody holds and that can still be found."""
        return len(self._kept)

    def blocks_for(self, num_tokens: int) -> int:
        """Blocks that hold so many tokens."""
        return self._pool.blocks_for(num_tokens)

    # --- taking

    def allocate(self, count: int, *, headroom: int = 0) -> list[int]:
        """Take `count` blocks to be written; an empty list if too few are free.

        See `BlockPool.allocate`.
        """
        table: list[int] = []
        self.extend(table, count, headroom=headroom)
        return table

    def extend(self, table: list[int], count: int, *, headroom: int = 0) -> bool:
        """Append `count` more blocks to be written; whether there were enough, else unchanged."""
        if count > self.num_free:
            return False
        if self._kept and self._pool.num_behind(table) < count:
            self._make_room(count, headroom)
        length = len(table)
        self._pool.extend(table, count, headroom=headroom)
        self._holders.update((block, 1) for block in table[length:])
        return True

    def find(self, digests: Iterable[bytes]) -> list[int]:
        """The blocks of the longest beginning that is here; nobody holds them by that."""
        if not self.shares:
            return []
        found: list[int] = []
        for digest in digests:
            blocks = self._index.get(digest)
            if blocks is None:
                break
            found.append(blocks[0])
        return found

    def share(self, digests: Iterable[bytes]) -> list[int]:
        """Hold the blocks of the longest beginning that is here."""
        found = self.find(digests)
        for block in found:
            self._hold(block)
        return found

    def claim(self, table: Sequence[int], digests: Sequence[bytes]) -> None:
        """Hold the very blocks of a table, which others may hold if theirs begins with the same.

        Args:
            table: blocks by place.
            digests: of those in front that are full and computed.

        Raises:
            ValueError: one of them is held with something else in it, or not of this pool; none
                is held by that then.
        """
        known = dict(zip(table, digests, strict=False))
        taken = [block for block in table if block in self._holders]
        for block in taken:
            if block not in known or self._digests.get(block) != known[block]:
                raise ValueError(f"block {block} is held, and with something else in it")
        if len(set(table)) != len(table):
            raise ValueError("a block is claimed twice")
        anew = [block for block in table if block not in self._holders]
        self._drop(block for block in anew if block in self._kept)
        self._pool.claim(anew)
        for block in table:
            self._holders[block] = self._holders.get(block, 0) + 1
        self._note(known)

    # --- what is in them

    def register(self, table: Iterable[int], digests: Iterable[bytes]) -> None:
        """These held blocks are full and computed, so that others may find them."""
        if self.shares:
            self._note(dict(zip(table, digests, strict=True)))

    def num_held(self, blocks: Iterable[int]) -> int:
        """How many of these somebody holds."""
        return sum(block in self._holders for block in blocks)

    def forget(self) -> None:
        """Nothing is found any more, and what nobody holds is free: its entries are gone."""
        self._drop(list(self._kept))
        self._digests.clear()
        self._index.clear()

    # --- letting go

    def free(self, table: Sequence[int]) -> None:
        """Let go of blocks; what others hold stays, and so, for now, does what may be found again.

        Raises:
            ValueError: one of them is held by nobody, or comes twice; all are held on to then.
        """
        if len(set(table)) != len(table) or not all(block in self._holders for block in table):
            raise ValueError(f"blocks {list(table)} are not all held ones of this pool")
        for block in table:
            self._holders[block] -= 1
        ended = [block for block in table if not self._holders[block]]
        for block in ended:
            del self._holders[block]
        self._let_go(block for block in reversed(ended) if not self._keeps(block))

    def check_integrity(self, tables: Iterable[Iterable[int]]) -> None:
        """Compare all that is kept about the blocks with itself, and with the tables of all.

        Raises:
            RuntimeError: two accounts of the same blocks differ.
        """
        self._pool.check_integrity()
        holders = Counter(block for table in tables for block in table)
        if holders != self._holders:
            wrong = {
                block: (holders[block], self._holders.get(block, 0))
                for block in holders.keys() | self._holders.keys()
                if holders[block] != self._holders.get(block, 0)
            }
            raise RuntimeError(f"blocks are in so many tables and have so many holders: {wrong}")
        num_taken = self.num_blocks - self._pool.num_free
        if len(holders.keys() | self._kept.keys()) != len(holders) + len(self._kept):
            raise RuntimeError(f"kept blocks are held: {self._kept.keys() & holders.keys()}")
        if num_taken != len(holders) + len(self._kept):
            raise RuntimeError(
                f"{num_taken} blocks are taken, {len(holders)} held and {len(self._kept)} kept"
            )
        named = {block: digest for digest, blocks in self._index.items() for block in blocks}
        found = {blocks[0] for blocks in self._index.values()}
        if named != self._digests or self._kept.keys() - found:
            lost = (self._digests.keys() - named.keys()) | (self._kept.keys() - found)
            raise RuntimeError(f"no beginning finds {lost}, or by another name: {named}")
        if strays := (self._digests.keys() | self.unlogged) - holders.keys() - self._kept.keys():
            raise RuntimeError(f"something is remembered of free blocks: {strays}")

    def _hold(self, block: int) -> None:
        self._holders[block] = self._holders.get(block, 0) + 1
        self._kept.pop(block, None)

    def _keeps(self, block: int) -> bool:
        """Keep a block that nobody holds any more, if it is the one that is found."""
        digest = self._digests.get(block)
        if digest is None or not self.shares:
            return False
        found = self._index[digest][0]
        if found == block:
            self._kept[block] = None
        elif found in self._kept:  # used until now, if by the name of another
            self._kept.move_to_end(found)
        return found == block

    def _note(self, known: dict[int, bytes]) -> None:
        for block, digest in known.items():
            if block not in self._digests:
                self._digests[block] = digest
                self._index.setdefault(digest, []).append(block)

    def _make_room(self, count: int, headroom: int) -> None:
        """Evict what is needed, and more until a run is free that leaves room at both its ends."""
        num_needed = max(0, count - self._pool.num_free)
        self._evict(num_needed)
        wanted = count + 2 * min(headroom, count)
        num_more = self.num_blocks // _FRACTION_FOR_A_RUN
        while num_more > 0 and self._kept and self._pool.longest_run < wanted:
            self._evict(1)
            num_more -= 1

    def _evict(self, count: int) -> None:
        self._drop(list(islice(self._kept, count)))

    def _drop(self, kept: Iterable[int]) -> None:
        """Kept blocks are not any more."""
        blocks = list(kept)
        for block in blocks:
            del self._kept[block]
        self._let_go(blocks)

    def _let_go(self, blocks: Iterable[int]) -> None:
        """Nobody holds these, and nobody shall find them."""
        gone = sorted(blocks)
        for block in gone:
            digest = self._digests.pop(block, None)
            if digest is not None:
                self._index[digest].remove(block)
                if not self._index[digest]:
                    del self._index[digest]
            self.unlogged.discard(block)
        self._pool.free(gone)
