"""The seam of this package: what a stage asks of a shard, real or emulated.

A shard is layers `[start, end)` of a model as tensors on one device, with their KV cache. It keeps
no request state: a forward is a function of the weights, the KV blocks and the batch. Bytes go in
and bytes come out, so that whoever hosts a shard needs no torch of its own.
"""

from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from models.forward_batch import ForwardBatch
from models.kv_encoding import KvEncoding

Bytes: TypeAlias = bytes | bytearray | memoryview


@dataclass(frozen=True, slots=True)
class ForwardResult:
    """What one forward gives: hidden states for the next shard, or tokens from the last.

    Shapes:
        hidden: the bytes of [T, E] in the shard's wire dtype, row-major; None from the last shard.
        token_ids: [B] int32, -1 where the batch did not ask to sample and -2 where no token may
            follow; None from the others.
        logprobs: (sequence of the batch, packed `TokenLogprobs`) of those that asked.
    """

    hidden: memoryview | None
    token_ids: npt.NDArray[np.int32] | None
    logprobs: tuple[tuple[int, bytes], ...] = ()


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

    def narrowed(self, start: int, end: int) -> "Shard":
        """A view on some of the layers, sharing their weights and KV with this shard.

        Hidden states go in and come out as at any shard of those layers. What one of the two
        writes into a block, the other reads; both are at home in the same thread.

        Raises:
            ShapeMismatch: the layers are not a range of this shard's.
        """
        ...

    def block_bytes(self, encoding: KvEncoding = "none") -> int:
        """Bytes of a block of one layer on the way.

        Raises:
            ModelError: there is no such encoding.
        """
        ...

    def read_blocks(
        self, layer: int, block_ids: npt.NDArray[np.int32], encoding: KvEncoding = "none"
    ) -> Bytes:
        """The KV bytes of some blocks of one layer, in the order asked; nobody else's to change.

        With another encoding than `none` the entries are written in fewer bits, and what comes of
        them at the other end is about the same. A shard whose entries mean nothing but themselves,
        as an emulated one's, gives them as they are.

        Raises:
            OutOfBlocks: an id is outside the cache.
            ShapeMismatch: the shard has not the layer.
            ModelError: there is no such encoding, or an entry is NaN or infinite.
        """
        ...

    def write_blocks(
        self,
        layer: int,
        block_ids: npt.NDArray[np.int32],
        data: Bytes,
        encoding: KvEncoding = "none",
    ) -> None:
        """Put back what `read_blocks` of a shard of the same geometry gave in that encoding.

        Raises:
            OutOfBlocks: an id is outside the cache.
            ShapeMismatch: the shard has not the layer, or the bytes are not so many blocks.
            ModelError: there is no such encoding, or the bytes are no entries in it.
        """
        ...

    def copy_blocks(self, sources: npt.NDArray[np.int32], targets: npt.NDArray[np.int32]) -> None:
        """Copy blocks onto others in every layer, as if all were read before any is written.

        Raises:
            OutOfBlocks: an id is outside the cache.
            ShapeMismatch: there are not as many sources as targets, or a target comes twice.
        """
        ...
