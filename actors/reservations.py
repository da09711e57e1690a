"""KV blocks that a pipeline keeps for requests which are to come from another one.

Whoever wants to give a request asks for blocks first, and writes into them; they are kept for as
long as a lease runs. What was written is of use only if the stages are still those that it was
written to, so each is kept for an epoch, and gone with the blocks of its time if these become more
or fewer.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from scheduling.batcher import Batcher
from scheduling.sequence import Sequence as TokenSequence
from scheduling.shared_blocks import SharedBlocks


@dataclass(slots=True)
class _Kept:
    """Blocks of a pool, as it was at an epoch, until a time on the loop's clock.

    The first `num_present` hold the request's entries already, and may be others' as well.
    """

    epoch: int
    table: list[int]
    num_present: int
    pool: SharedBlocks
    until: float


class Reservations:
    """Blocks by the request that they are kept for."""

    def __init__(self, batcher: Batcher) -> None:
        self._batcher = batcher
        self._kept: dict[str, _Kept] = {}

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def tables(self) -> list[list[int]]:
        """All that are kept, by request."""
        pool = self._batcher.pool
        return [kept.table for kept in self._kept.values() if kept.pool is pool]

    def keep(
        self,
        request: str,
        num_blocks: int,
        epoch: int,
        until: float,
        digests: Sequence[bytes] = (),
    ) -> tuple[list[int], int] | None:
        """Keep so many blocks, among them those of its beginning that are here.

        Returns:
            The blocks, and how many of those in front hold its entries; None if there are not so
            many, or if some are kept for it already.
        """
        if request in self._kept:
            return None
        reserved = self._batcher.reserve(num_blocks, digests)
        if reserved is not None:
            self._kept[request] = _Kept(epoch, *reserved, self._batcher.pool, until)
        return reserved

    def extend(self, request: str, until: float) -> None:
        """Keep what is kept for a request for longer."""
        if (kept := self._kept.get(request)) is not None:
            kept.until = max(kept.until, until)

    def time_left(self, request: str, now: float) -> float | None:
        """How long its lease still runs, in seconds; None if nothing is kept for it."""
        kept = self._kept.get(request)
        return None if kept is None else kept.until - now

    def is_void(self, request: str, epoch: int) -> bool:
        """Whether blocks are kept that were for other stages than those of this epoch."""
        return request in self._kept and self._kept[request].epoch != epoch

    def take(self, sequence: TokenSequence, *, is_own: bool) -> int:
        """A request came with its blocks: kept for it, or, where `is_own`, its own all along.

        Returns:
            How many of the first of them held its entries before it came.

        Raises:
            ValueError: they are not kept for it any more, or one of them is somebody else's.
        """
        request, table = sequence.request_id, sequence.block_table
        kept = self._kept.get(request)
        if kept is not None and kept.table == table:
            del self._kept[request]
            return kept.num_present
        if not is_own:
            raise ValueError(f"no blocks are kept for request {request} any more")
        self._batcher.claim(table, sequence.computed_digests(self._batcher.pool.block_tokens))
        return 0

    def drop(self, request: str) -> bool:
        """It does not come: what was kept for it is free; whether anything was."""
        kept = self._kept.pop(request, None)
        if kept is not None and kept.pool is self._batcher.pool:
            self._batcher.give_back(kept.table)
        return kept is not None
