"""KV blocks that a pipeline keeps for requests which are to come from another one.

Whoever wants to give a request asks for blocks first, and writes into them; they are kept for as
long as a lease runs. What was written is of use only if the stages are still those that it was
written to, so each is kept for an epoch.
"""

from collections.abc import Sequence

from scheduling.batcher import Batcher


class Reservations:
    """Blocks by the request that they are kept for."""

    def __init__(self, batcher: Batcher) -> None:
        self._batcher = batcher
        self._kept: dict[str, tuple[int, list[int]]] = {}

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def blocks(self) -> list[int]:
        """All that are kept."""
        return [block for _, table in self._kept.values() for block in table]

    def keep(self, request: str, num_blocks: int, epoch: int) -> list[int] | None:
        """Keep so many blocks; None if there are not, or if some are kept for it already."""
        if request in self._kept:
            return None
        table = self._batcher.reserve(num_blocks)
        if table is not None:
            self._kept[request] = epoch, table
        return table

    def is_void(self, request: str, epoch: int) -> bool:
        """Whether blocks are kept that were for other stages than those of this epoch."""
        return request in self._kept and self._kept[request][0] != epoch

    def take(self, request: str, table: Sequence[int]) -> None:
        """A request came with these blocks: kept for it, or else its own all along.

        Raises:
            ValueError: one of them is somebody else's.
        """
        kept = self._kept.get(request)
        if kept is not None and kept[1] == list(table):
            del self._kept[request]
        else:
            self._batcher.claim(table)

    def drop(self, request: str) -> bool:
        """It does not come: what was kept for it is free; whether anything was."""
        kept = self._kept.pop(request, None)
        if kept is not None:
            self._batcher.give_back(kept[1])
        return kept is not None
