"""The hidden states that a shard gave out, kept so that a lost neighbour can be fed them again.

The one idea: a row is kept at the place of its token's KV entry, by block and slot. So whoever
owns the blocks owns the log with them: nothing is freed or looked up by request, and a block that
goes to another sequence overwrites what was there. Memory is touched only where rows were written.
Upstream backup in stream processing is the same thought (Hwang et al., ICDE 2005).

It never knows whether a row was written: who asks for a token's row knows that it was computed.
"""

import numpy as np
import numpy.typing as npt

from models import layout
from models.errors import OutOfBlocks
from models.forward_batch import ForwardBatch
from models.lazy_memory import lazy_zeros


class ReplayLog:
    """Rows of `row_bytes` for the first blocks of a cache, as many as `max_bytes` allow."""

    def __init__(self, num_blocks: int, block_tokens: int, row_bytes: int, max_bytes: int) -> None:
        """Reserve the log.

        Args:
            num_blocks: N of the cache.
            block_tokens: P.
            row_bytes: bytes of one token's hidden state on the wire.
            max_bytes: bound on the log; blocks beyond it are not logged.

        Raises:
            OutOfBlocks: the host has not the address space.
        """
        self._block_tokens, self._row_bytes = block_tokens, row_bytes
        block_bytes = block_tokens * row_bytes
        self._num_logged_blocks = min(num_blocks, max_bytes // block_bytes)
        num_bytes = self._num_logged_blocks * block_bytes
        try:
            raw = lazy_zeros(num_bytes + row_bytes)
        except (OSError, ValueError, OverflowError) as error:
            raise OutOfBlocks(f"replay log of {num_bytes} bytes does not fit: {error}") from error
        # One item a row, so that a row is copied as a whole.
        self._row = np.dtype((np.void, row_bytes))
        self._rows = raw.view(self._row)[: self._num_logged_blocks * block_tokens]
        # Rows of blocks that are not logged go to the one behind: cheaper than to sort them out.
        self._rows_and_rest = raw.view(self._row)
        self._rest = np.array(len(self._rows), np.uint64)

    @property
    def num_logged_blocks(self) -> int:
        """Blocks `[0, num_logged_blocks)` are logged."""
        return self._num_logged_blocks

    @property
    def num_bytes(self) -> int:
        """Bytes reserved; memory is taken only for what was written."""
        return self._rows.nbytes

    def holds(self, block_ids: npt.NDArray[np.int32]) -> npt.NDArray[np.bool_]:
        """Whether each block is one that is logged."""
        return (block_ids >= 0) & (block_ids < self._num_logged_blocks)

    def write(self, batch: ForwardBatch, hidden: memoryview) -> None:
        """Keep the rows that a shard gave for a batch, those of logged blocks.

        Shapes:
            hidden: [T] rows.

        Raises:
            ShapeMismatch: the bytes are not T rows.
        """
        layout.check_bytes("hidden states", hidden, batch.num_tokens * self._row_bytes)
        slots = layout.slots(batch, self._block_tokens)
        # As unsigned numbers, negative ones are beyond any log.
        places = np.minimum(slots.view(np.uint64), self._rest).view(np.int64)
        self._rows_and_rest[places] = np.frombuffer(hidden, self._row)

    def read(self, batch: ForwardBatch) -> memoryview:
        """The rows of a batch's tokens in its order, as the next shard's `forward` takes them.

        Raises:
            OutOfBlocks: a token is in a block that is not logged.
        """
        slots = layout.slots(batch, self._block_tokens)
        logged = (slots >= 0) & (slots < len(self._rows))
        if not logged.all():
            block = slots[~logged][0] // self._block_tokens
            raise OutOfBlocks(f"block {block}: only 0:{self._num_logged_blocks} are logged")
        return self._rows[slots].view(np.uint8).data

    def copy_blocks(self, sources: npt.NDArray[np.int32], targets: npt.NDArray[np.int32]) -> None:
        """Follow `Shard.copy_blocks`: the rows of blocks go where their KV goes.

        Raises:
            OutOfBlocks: a block is not logged.
            ShapeMismatch: there are not as many sources as targets, or a target comes twice.
        """
        layout.check_copy(sources, targets, self._num_logged_blocks)
        blocks = self._rows.reshape(-1, self._block_tokens)
        blocks[targets] = blocks[sources]
