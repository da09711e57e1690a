"""The KV cache of one shard's layers, addressed by layer and block id.

The one idea: every layer's storage stands by itself, so that two caches can share the layers that
both have. Whoever reads sees `[K, N * P, D]` for a layer's keys and values, whatever lies in
memory: on a CPU a head's keys lie together, so that a run of blocks is read as a plain matrix and
never gathered; on a GPU a token's heads do, for the paged kernel. Blocks leave and come back in
one order, so shards on different devices of the same dtype can exchange them. It knows no
sequence: which block belongs to whom is in the batch.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from models import kv_codec, layout
from models.errors import OutOfBlocks
from models.interface import Bytes
from models.kv_encoding import BlockShape, KvEncoding, encoded_bytes
from models.lazy_memory import lazy_zeros


@dataclass(frozen=True, slots=True, kw_only=True)
class KVGeometry:
    """What two caches must have in common to share a layer.

    Shapes:
        num_blocks is N, block_tokens P, num_heads K, head_dim D.

    With `token_major` all heads of a token lie together, as a paged kernel reads them; else all
    tokens of a head, as matrix products do.
    """

    num_blocks: int
    block_tokens: int
    num_heads: int
    head_dim: int
    dtype: torch.dtype
    device: torch.device
    token_major: bool = False

    @property
    def block_shape(self) -> tuple[int, ...]:
        """One block of one layer as it travels: (2, K, P, D)."""
        return (2, self.num_heads, self.block_tokens, self.head_dim)

    @property
    def travelling(self) -> BlockShape:
        """What a block holds, for counting its bytes on the way."""
        return BlockShape(
            num_heads=self.num_heads,
            block_tokens=self.block_tokens,
            head_dim=self.head_dim,
            itemsize=self.dtype.itemsize,
        )

    @property
    def layer_bytes(self) -> int:
        """Bytes of one layer."""
        return self.num_blocks * int(np.prod(self.block_shape, dtype=object)) * self.dtype.itemsize


class KVCache:
    """Keys and values of layers `[start, end)` for `N` blocks of `P` tokens."""

    def __init__(
        self, geometry: KVGeometry, start: int, end: int, *, held: "KVCache | None" = None
    ) -> None:
        """Reserve the layers that `held` has not, or all of them if its geometry is another.

        Raises:
            OutOfBlocks: the device has not the memory.
        """
        self.geometry, self.layers = geometry, (start, end)
        known: dict[int, torch.Tensor] = {}
        if held is not None and held.geometry == geometry:
            known = held._storage
        self._storage: dict[int, torch.Tensor] = {
            layer: known[layer] if layer in known else _reserve(geometry)
            for layer in range(start, end)
        }
        self._entries = {layer: (kv[0], kv[1]) for layer, kv in self._storage.items()}
        self._blocks = {layer: _by_block(kv, geometry) for layer, kv in self._storage.items()}
        # Where nothing is to be transposed, blocks are copied as bytes, past torch.
        self._raw = {} if geometry.token_major else {k: _raw(v) for k, v in self._blocks.items()}

    @property
    def num_bytes(self) -> int:
        """Bytes of the whole cache, shared layers counted."""
        return len(self._storage) * self.geometry.layer_bytes

    def layer(self, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values of a layer by slot: [K, N * P, D] each."""
        return self._entries[layer]

    def pages(self, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values of a layer as a paged kernel wants them: [N, P, K, D] each."""
        keys, values = self._entries[layer]
        size = self.geometry.block_tokens
        return split_dim(keys.transpose(0, 1), 0, size), split_dim(values.transpose(0, 1), 0, size)

    def narrowed(self, start: int, end: int) -> "KVCache":
        """The same storage, of a part of the layers."""
        return KVCache(self.geometry, start, end, held=self)

    @torch.inference_mode()
    def read(
        self, layer: int, block_ids: npt.NDArray[np.int32], encoding: KvEncoding = "none"
    ) -> memoryview:
        """Some blocks of a layer: the bytes of [n, 2, K, P, D], or what `encoding` makes of them.

        Raises:
            OutOfBlocks: an id is outside the cache.
            ShapeMismatch: the cache has not the layer.
            ModelError: the blocks cannot be encoded so.
        """
        self._check(layer, block_ids)
        if layer in self._raw:
            # Not by torch, which takes ten times as long to gather where rows are apart.
            data = _read_runs(self._raw[layer], block_ids)
            if encoding == "none":
                return data
            taken = self._shaped(torch.from_numpy(np.frombuffer(data, np.uint8)))
        else:
            taken = self._blocks[layer].index_select(0, self._indices(block_ids))
        taken = taken.view(torch.uint8) if encoding == "none" else kv_codec.encode(taken, encoding)
        # Pinned, the copy off a GPU is one transfer at the link's full rate.
        held = torch.empty(taken.shape, dtype=taken.dtype, pin_memory=taken.is_cuda).copy_(taken)
        return held.numpy().reshape(-1).data

    @torch.inference_mode()
    def write(
        self,
        layer: int,
        block_ids: npt.NDArray[np.int32],
        data: Bytes,
        encoding: KvEncoding = "none",
    ) -> None:
        """Put back what `read` of a cache of the same geometry gave in that encoding.

        Raises:
            OutOfBlocks: an id is outside the cache.
            ShapeMismatch: the cache has not the layer, or the bytes are not so many blocks.
            ModelError: the bytes are no blocks of that encoding.
        """
        self._check(layer, block_ids)
        num_bytes = encoded_bytes(len(block_ids), self.geometry.travelling, encoding)
        layout.check_bytes("blocks", data, num_bytes)
        raw = np.frombuffer(data, np.uint8)
        if encoding == "none" and layer in self._raw:
            _write_runs(self._raw[layer], block_ids, raw)
            return
        blocks = self._blocks[layer]
        held = torch.empty(num_bytes, dtype=torch.uint8, pin_memory=blocks.is_cuda)
        held.numpy()[:] = raw
        new = self._decoded(held.to(blocks.device), encoding)
        if layer in self._raw:
            _write_runs(self._raw[layer], block_ids, new.view(torch.uint8).numpy())
        else:
            blocks.index_copy_(0, self._indices(block_ids), new)

    @torch.inference_mode()
    def copy(self, sources: npt.NDArray[np.int32], targets: npt.NDArray[np.int32]) -> None:
        """Copy blocks onto others in every layer, as if all were read before any is written.

        Raises:
            OutOfBlocks: an id is outside the cache.
            ShapeMismatch: there are not as many sources as targets, or a target comes twice.
        """
        layout.check_copy(sources, targets, self.geometry.num_blocks)
        come_from, go_to = self._indices(sources), self._indices(targets)
        for blocks in self._blocks.values():
            blocks.index_copy_(0, go_to, blocks.index_select(0, come_from))

    def _decoded(self, data: torch.Tensor, encoding: KvEncoding) -> torch.Tensor:
        geometry = self.geometry
        if encoding == "none":
            return self._shaped(data)
        return kv_codec.decode(data, geometry.travelling, geometry.dtype, encoding)

    def _shaped(self, data: torch.Tensor) -> torch.Tensor:
        return data.view(self.geometry.dtype).view(-1, *self.geometry.block_shape)

    def _check(self, layer: int, block_ids: npt.NDArray[np.int32]) -> None:
        layout.check_layer(layer, self.layers)
        layout.check_ids(block_ids, self.geometry.num_blocks)

    def _indices(self, block_ids: npt.NDArray[np.int32]) -> torch.Tensor:
        return torch.from_numpy(block_ids.astype(np.int64)).to(self.geometry.device)


def split_dim(tensor: torch.Tensor, dim: int, size: int) -> torch.Tensor:
    """A view whose dimension `dim` has become two, the second of `size`."""
    return tensor.view(*tensor.shape[:dim], -1, size, *tensor.shape[dim + 1 :])


def _by_block(storage: torch.Tensor, geometry: KVGeometry) -> torch.Tensor:
    """A view of a layer as [N, 2, K, P, D]."""
    return split_dim(storage, 2, geometry.block_tokens).permute(2, 0, 1, 3, 4)


def _raw(blocks: torch.Tensor) -> npt.NDArray[np.uint8]:
    """The bytes of a view on a CPU, in place: [N, 2, K, P, D * itemsize]."""
    raw: npt.NDArray[np.uint8] = blocks.view(torch.uint8).numpy()
    return raw


def _read_runs(blocks: npt.NDArray[np.uint8], block_ids: npt.NDArray[np.int32]) -> memoryview:
    """Bytes of some blocks, each copied once, into memory that is given away."""
    out = np.empty((len(block_ids), *blocks.shape[1:]), np.uint8)
    for place, first, count in _runs(block_ids):
        out[place : place + count] = blocks[first : first + count]
    return out.reshape(-1).data


def _write_runs(
    blocks: npt.NDArray[np.uint8],
    block_ids: npt.NDArray[np.int32],
    raw: npt.NDArray[np.uint8],
) -> None:
    new = raw.reshape(len(block_ids), *blocks.shape[1:])
    for place, first, count in _runs(block_ids):
        blocks[first : first + count] = new[place : place + count]


def _runs(block_ids: npt.NDArray[np.int32]) -> Iterator[tuple[int, int, int]]:
    """Stretches of consecutive ids: (place of the first, its id, how many)."""
    if not len(block_ids):
        return
    breaks = np.flatnonzero(np.diff(block_ids) != 1) + 1
    places = [0, *breaks.tolist(), len(block_ids)]
    firsts = block_ids[places[:-1]].tolist()
    for place, after, first in zip(places, places[1:], firsts, strict=False):
        yield place, first, after - place


def _reserve(geometry: KVGeometry) -> torch.Tensor:
    """One layer's memory, seen as [2, K, N * P, D]."""
    num_slots = geometry.num_blocks * geometry.block_tokens
    heads, size = geometry.num_heads, geometry.head_dim
    if geometry.token_major:
        return _zeros((2, num_slots, heads, size), geometry).transpose(1, 2)
    return _zeros((2, heads, num_slots, size), geometry)


def _zeros(shape: tuple[int, ...], geometry: KVGeometry) -> torch.Tensor:
    device = geometry.device
    try:
        if device.type != "cpu":
            return torch.zeros(shape, dtype=geometry.dtype, device=device)
        num_bytes = int(np.prod(shape, dtype=object)) * geometry.dtype.itemsize
        return torch.from_numpy(lazy_zeros(num_bytes)).view(geometry.dtype).view(shape)
    except (MemoryError, RuntimeError, ValueError, OSError, OverflowError) as error:
        raise OutOfBlocks(
            f"KV cache of shape {shape} a layer does not fit {device}: {error}"
        ) from error
