"""Which KV blocks are free: ids only, no tensor.

The one idea: free blocks are kept as maximal runs of consecutive ids, so that a sequence can be
given a run and room to grow behind it. A stage reads a contiguous table as a view, where a
scattered one must be gathered. Contiguity is a preference: any free block serves in the end.

A pool never knows whose a block is. Runs are found by their two ends (Knuth, The Art of Computer
Programming 1, section 2.5: boundary tags), the longest one by a heap with stale entries.
"""

import heapq
from collections.abc import Iterator, Sequence


class BlockPool:
    """The free and taken blocks `0 .. num_blocks` of a pipeline.

    Complexity: taking and freeing a run is O(log R) for R free runs.

    Example:
        >>> pool = BlockPool(num_blocks=8, block_tokens=16)
        >>> table = pool.allocate(2, headroom=1)
        >>> pool.extend(table, 1)
        True
        >>> table, pool.num_free
        ([0, 1, 2], 5)
    """

    def __init__(self, num_blocks: int, block_tokens: int) -> None:
        if num_blocks < 1 or block_tokens < 1:
            raise ValueError(
                f"expected 1 or more blocks of 1 or more tokens, got {num_blocks} of {block_tokens}"
            )
        self._num_blocks = num_blocks
        self._block_tokens = block_tokens
        self._num_free = 0
        self._is_free = bytearray(b"\1") * num_blocks
        self._lengths: dict[int, int] = {}  # first id of a free run -> its length
        self._starts: dict[int, int] = {}  # id behind a free run -> its first id
        self._longest: list[tuple[int, int]] = []  # heap of (-length, first id), some stale
        self._put_run(0, num_blocks)

    @property
    def num_blocks(self) -> int:
        """Blocks, free or taken."""
        return self._num_blocks

    @property
    def block_tokens(self) -> int:
        """Tokens in a block."""
        return self._block_tokens

    @property
    def num_free(self) -> int:
        """Blocks that nobody holds."""
        return self._num_free

    @property
    def longest_run(self) -> int:
        """The most consecutive blocks that nobody holds."""
        return self._longest_run()[1] if self._num_free else 0

    def num_behind(self, table: Sequence[int]) -> int:
        """Free blocks that follow a table's last one."""
        return self._lengths.get(table[-1] + 1, 0) if table else 0

    def blocks_for(self, num_tokens: int) -> int:
        """Blocks that hold so many tokens."""
        return -(-num_tokens // self._block_tokens)

    def allocate(self, count: int, *, headroom: int = 0) -> list[int]:
        """Take `count` blocks, in one run if there is one; an empty list if too few are free.

        Args:
            count: blocks to take.
            headroom: blocks by which the holder may grow. Room of that size is left free behind
                the neighbour in front as well, while the run is long enough for both.
        """
        table: list[int] = []
        self.extend(table, count, headroom=headroom)
        return table

    def extend(self, table: list[int], count: int, *, headroom: int = 0) -> bool:
        """Append `count` more blocks to a table, those that follow its last one if they are free.

        Returns:
            Whether there were enough; if not, the table is unchanged.
        """
        if count > self._num_free:
            return False
        missing = count
        while missing:
            grown = self._take_next(table, missing) or self._take_elsewhere(
                table, missing, headroom
            )
            missing -= grown
        return True

    def claim(self, table: Sequence[int]) -> None:
        """Take the blocks of a table, wherever they are.

        Raises:
            ValueError: one of them is taken already or not of this pool; none is taken then.

        Complexity: O(R) for each stretch of consecutive ids, for R free runs.
        """
        stretches = list(_runs(table))
        for start, length in stretches:
            if (
                start < 0
                or start + length > self._num_blocks
                or not all(self._is_free[start : start + length])
            ):
                raise ValueError(f"blocks {start}:{start + length} are not all free in this pool")
        if len(set(table)) != len(table):
            raise ValueError("a block is claimed twice")
        for start, length in stretches:
            run = max(first for first in self._lengths if first <= start)
            self._take([], start, length, run)

    def free(self, table: Sequence[int]) -> None:
        """Give blocks back.

        Raises:
            ValueError: one of them is free already or not of this pool.
        """
        for start, length in _runs(table):
            end = start + length
            if start < 0 or end > self._num_blocks or any(self._is_free[start:end]):
                raise ValueError(f"blocks {start}:{end} are not all taken blocks of this pool")
            self._release_run(start, length)

    def check_integrity(self) -> None:
        """Compare all that is kept about the free blocks with itself.

        Raises:
            RuntimeError: two accounts of the same blocks differ.
        """
        ids = [block for block in range(self._num_blocks) if self._is_free[block]]
        runs = dict(_runs(ids))
        if runs != self._lengths or len(ids) != self._num_free:
            raise RuntimeError(f"free runs are {self._lengths}, but the free blocks form {runs}")
        if {start + length: start for start, length in runs.items()} != self._starts:
            raise RuntimeError(f"ends of free runs are {self._starts}, but the runs are {runs}")
        unknown = {(-length, start) for start, length in runs.items()} - set(self._longest)
        if unknown:
            raise RuntimeError(f"free runs that no search finds: {unknown}")

    def _take_next(self, table: list[int], count: int) -> int:
        """Grow a table in place; give the number of blocks it grew by."""
        start = table[-1] + 1 if table else -1
        length = min(count, self._lengths.get(start, 0))
        if length:
            self._take(table, start, length)
        return length

    def _take_elsewhere(self, table: list[int], count: int, headroom: int) -> int:
        """Take a stretch of the longest free run, leaving its front to the neighbour to grow."""
        run, available = self._longest_run()
        length = min(count, available)
        gap = min(headroom, (available - length) // 2) if run else 0
        self._take(table, run + gap, length, run)
        return length

    def _take(self, table: list[int], start: int, length: int, run: int | None = None) -> None:
        run = start if run is None else run
        end = run + self._remove_run(run)
        self._put_run(run, start - run)
        self._put_run(start + length, end - start - length)
        self._is_free[start : start + length] = bytes(length)
        table.extend(range(start, start + length))

    def _release_run(self, start: int, length: int) -> None:
        end = start + length
        self._is_free[start:end] = b"\1" * length
        if end in self._lengths:
            end += self._remove_run(end)
        if start in self._starts:
            start = self._starts[start]
            self._remove_run(start)
        self._put_run(start, end - start)

    def _put_run(self, start: int, length: int) -> None:
        if not length:
            return
        self._num_free += length
        self._lengths[start] = length
        self._starts[start + length] = start
        heapq.heappush(self._longest, (-length, start))
        if len(self._longest) > 4 * len(self._lengths) + 64:
            self._longest = [(-size, first) for first, size in self._lengths.items()]
            heapq.heapify(self._longest)

    def _remove_run(self, start: int) -> int:
        length = self._lengths.pop(start)
        del self._starts[start + length]
        self._num_free -= length
        return length

    def _longest_run(self) -> tuple[int, int]:
        while True:
            length, start = -self._longest[0][0], self._longest[0][1]
            if self._lengths.get(start) == length:
                return start, length
            heapq.heappop(self._longest)


def _runs(ids: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Cut ids into stretches of consecutive ones, each as (first, length)."""
    first = 0
    for index in range(1, len(ids) + 1):
        if index == len(ids) or ids[index] != ids[index - 1] + 1:
            yield ids[first], index - first
            first = index
