"""The seam of this package: what a stage asks of a shard, real or emulated.

A shard is layers `[start, end)` of a model as tensors on one device, with their KV cache. It keeps
no request state: a forward is a function of the weights, the KV blocks and the batch. Bytes go in
and bytes come out, so that whoever hosts a shard needs no torch of its own.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from models.forward_batch import ForwardBatch


@dataclass(frozen=True, slots=True)
class ForwardResult:
    """What one forward gives: hidden states for the next shard, or tokens from the last.

    Shapes:
        hidden: the bytes of [T, E] in the shard's wire dtype, row-major; None from the last shard.
        token_ids: [B] int32, -1 where the batch did not ask to sample; None from the others.
    """

    hidden: memoryview | None
    token_ids: npt.NDArray[np.int32] | None


class Shard(Protocol):
    """Layers `[start, end)` at work on one device.

    All methods block; a stage calls them from its executor thread. `hidden` given to `forward`
    may be read only during the call; the memoryview it returns stays valid and unchanged for
    ever.
    """

    @property
    def layers(self) -> tuple[int, int]:
        """The half-open layer range."""
        ...

    @property
    def num_blocks(self) -> int:
        """KV blocks in this shard's cache: N."""
        ...

    @property
    def block_tokens(self) -> int:
        """Tokens in a KV block: P."""
        ...

    @property
    def resident_bytes(self) -> int:
        """Bytes of weights this shard holds on its device (without the KV cache)."""
        ...

    def forward(self, batch: ForwardBatch, hidden: memoryview | None) -> ForwardResult:
        """Run the layers over one batch, writing its KV entries into the blocks it names.

        Args:
            batch: the step's tokens and places.
            hidden: the previous shard's output; None at the first shard, which embeds `token_ids`.

        Raises:
            ShapeMismatch: `hidden` has not the bytes that the batch needs.
            OutOfBlocks: a block table names a block outside the cache, or too few blocks.
        """
        ...

    def read_blocks(self, layer: int, block_ids: npt.NDArray[np.int32]) -> bytes:
        """The KV bytes of some blocks of one layer, in the order asked."""
        ...

    def write_blocks(self, layer: int, block_ids: npt.NDArray[np.int32], data: bytes) -> None:
        """Put back what `read_blocks` of a shard of the same geometry gave."""
        ...
