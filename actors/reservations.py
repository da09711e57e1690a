"""KV blocks that a pipeline keeps for requests which are to come from another one.

Whoever wants to give a request asks for blocks first, and writes into them; they are kept for as
long as a lease runs. What was written is of use only if the stages are still those that it was
written to, so each is kept for an epoch, and gone with the blocks of its time if these become more
or fewer.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from scheduling.batcher import Batcher
from scheduling.blocks import BlockPool


@dataclass(slots=True)
class _Kept:
    """Blocks of a pool, as it was at an epoch, until a time on the loop's clock."""

    epoch: int
    table: list[int]
    pool: BlockPool
    until: float


class Reservations:
    """Blocks by the request that they are kept for."""

    def __init__(self, batcher: Batcher) -> None:
        self._batcher = batcher
        self._kept: dict[str, _Kept] = {}

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def blocks(self) -> list[int]:
        """All that are kept."""
        pool = self._batcher.pool
        return [block for kept in self._kept.values() if kept.pool is pool for block in kept.table]

    def keep(self, request: str, num_blocks: int, epoch: int, until: float) -> list[int] | None:
        """Keep so many blocks; None if there are not, or if some are kept for it already."""
        if request in self._kept:
            return None
        table = self._batcher.reserve(num_blocks)
        if table is not None:
            self._kept[request] = _Kept(epoch, table, self._batcher.pool, until)
        return table

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

    def take(self, request: str, table: Sequence[int], *, is_own: bool) -> None:
        """A request came with these blocks: kept for it, or, where `is_own`, its own all along.

        Raises:
            ValueError: they are not kept for it any more, or one of them is somebody else's.
        """
        kept = self._kept.get(request)
        if kept is not None and kept.table == list(table):
            del self._kept[request]
        elif is_own:
            self._batcher.claim(table)
        else:
            raise ValueError(f"no blocks are kept for request {request} any more")

    def drop(self, request: str) -> bool:
        """It does not come: what was kept for it is free; whether anything was."""
        kept = self._kept.pop(request, None)
        if kept is not None and kept.pool is self._batcher.pool:
            self._batcher.give_back(kept.table)
        return kept is not None
