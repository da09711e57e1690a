"""The KV cache of one shard's layers, addressed by block id.

The one idea: whoever reads sees `[K, N * P, D]` for each layer's keys and values, whatever lies in
memory. On a CPU a head's keys lie together, so that a run of blocks is read as a plain matrix and
never gathered; on a GPU a token's heads do, for the paged kernel. Blocks leave and come back in
one order, so shards on different devices of the same dtype can exchange them. It knows no
sequence: which block belongs to whom is in the batch.
"""

import numpy as np
import numpy.typing as npt
import torch

from models import layout
from models.errors import OutOfBlocks

_ALIGNMENT = 64


class KVCache:
    """Keys and values of some layers for `N` blocks of `P` tokens."""

    def __init__(
        self,
        num_layers: int,
        num_blocks: int,
        block_tokens: int,
        num_heads: int,
        head_dim: int,
        dtype: torch.dtype,
        device: torch.device,
        *,
        token_major: bool = False,
    ) -> None:
        """Reserve the cache.

        Args:
            num_layers: L.
            num_blocks: N.
            block_tokens: P.
            num_heads: K.
            head_dim: D.
            dtype: of keys and values.
            device: where they are.
            token_major: lay all heads of a token together, as a paged kernel reads them; else
                all tokens of a head, as matrix products do.

        Raises:
            OutOfBlocks: the device has not the memory.
        """
        self.num_blocks, self.block_tokens = num_blocks, block_tokens
        self.device = device
        num_slots = num_blocks * block_tokens
        if token_major:
            stored = (num_layers, 2, num_slots, num_heads, head_dim)
            self._data = _zeros(stored, dtype, device).transpose(2, 3)
        else:
            self._data = _zeros((num_layers, 2, num_heads, num_slots, head_dim), dtype, device)
        self._layers = [(layer[0], layer[1]) for layer in self._data]

    @property
    def num_bytes(self) -> int:
        """Bytes of the whole cache."""
        return self._data.nbytes

    def layer(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values of a layer by slot: [K, N * P, D] each."""
        return self._layers[index]

    def pages(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values of a layer as a paged kernel wants them: [N, P, K, D] each."""
        keys, values = self._layers[index]
        size = self.block_tokens
        return split_dim(keys.transpose(0, 1), 0, size), split_dim(values.transpose(0, 1), 0, size)

    @torch.inference_mode()
    def read(self, index: int, block_ids: npt.NDArray[np.int32]) -> bytes:
        """Some blocks of a layer: the bytes of [n, 2, K, P, D].

        Raises:
            OutOfBlocks: an id is outside the cache.
        """
        blocks = self._by_block(index).index_select(2, self._checked(block_ids))
        ordered = blocks.permute(2, 0, 1, 3, 4).contiguous()
        return ordered.cpu().view(torch.uint8).numpy().tobytes()

    @torch.inference_mode()
    def write(self, index: int, block_ids: npt.NDArray[np.int32], data: bytes) -> None:
        """Put back what `read` of a cache of the same geometry gave.

        Raises:
            OutOfBlocks: an id is outside the cache.
            ShapeMismatch: the bytes are not those of so many blocks.
        """
        ids, target = self._checked(block_ids), self._by_block(index)
        _, num_heads, _, block_tokens, head_dim = target.shape
        shape = (len(ids), 2, num_heads, block_tokens, head_dim)
        layout.check_bytes("blocks", data, int(np.prod(shape)) * target.itemsize)
        numbers = torch.from_numpy(np.frombuffer(data, np.uint8).copy()).view(target.dtype)
        blocks = numbers.view(shape).to(self.device)
        target.index_copy_(2, ids, blocks.permute(1, 2, 0, 3, 4))

    def _by_block(self, index: int) -> torch.Tensor:
        """A layer's view as [2, K, N, P, D]."""
        return split_dim(self._data[index], 2, self.block_tokens)

    def _checked(self, block_ids: npt.NDArray[np.int32]) -> torch.Tensor:
        layout.check_ids(block_ids, self.num_blocks)
        return torch.from_numpy(block_ids.astype(np.int64)).to(self.device)


def split_dim(tensor: torch.Tensor, dim: int, size: int) -> torch.Tensor:
    """A view whose dimension `dim` has become two, the second of `size`."""
    return tensor.view(*tensor.shape[:dim], -1, size, *tensor.shape[dim + 1 :])


def _zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    try:
        if device.type != "cpu":
            return torch.zeros(shape, dtype=dtype, device=device)
        return _lazy_zeros(shape, dtype)
    except (MemoryError, RuntimeError, ValueError) as error:
        raise OutOfBlocks(f"KV cache of shape {shape} does not fit {device}: {error}") from error


def _lazy_zeros(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """Zeros whose pages take memory only once they are written."""
    num_bytes = int(np.prod(shape, dtype=object)) * dtype.itemsize
    raw = np.zeros(num_bytes + _ALIGNMENT, np.uint8)
    skip = -raw.ctypes.data % _ALIGNMENT
    return torch.from_numpy(raw[skip : skip + num_bytes]).view(dtype).view(shape)
