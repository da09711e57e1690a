"""A shard: layers `[start, end)` of a Hugging Face decoder at work on one device.

The one idea: a forward is a function of weights, KV blocks and batch. What it needs beyond the
weights comes in with the call and goes out with the result, as plain bytes; no request is known
here, and nothing is kept between two calls but the cache.
"""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from models import layout
from models.attention import STEP_KEYWORD, CausalMasks, Step
from models.checkpoint import Checkpoint
from models.config import ModelConfig
from models.device import release_freed_memory, torch_device
from models.dtypes import compute_dtype, torch_dtype
from models.errors import ShapeMismatch
from models.forward_batch import ForwardBatch
from models.interface import ForwardResult
from models.kv_cache import KVCache
from models.paged_kernel import find_kernel
from models.sampling import sample
from models.staging import Staging
from models.weights import Progress, build_network, load_weights, num_resident_bytes

_log = logging.getLogger(__name__)


def load_shard(
    path: str | Path,
    start: int,
    end: int,
    *,
    num_blocks: int,
    block_tokens: int,
    device: str = "cpu",
    dtype: str = "auto",
    wire_dtype: str = "float32",
    on_progress: Progress | None = None,
) -> "TorchShard":
    """Load layers `[start, end)` of the model in a directory, and reserve their KV cache.

    Args:
        path: the model's directory.
        start: first layer; 0 brings the embedding along.
        end: layer after the last; the model's number of layers brings the norm and head along.
        num_blocks: KV blocks to reserve.
        block_tokens: tokens in a block.
        device: `cpu` or `cuda:i`.
        dtype: what to compute in; `auto` is float32 on a CPU and bfloat16 on a GPU.
        wire_dtype: format of hidden states between shards; all shards of a pipeline have one.
        on_progress: told (bytes done, bytes in all) after each tensor.

    Raises:
        UnsupportedModel: the architecture is not one we run.
        BadCheckpoint: a file is missing or garbled.
        WeightsMissing: the checkpoint lacks a tensor of these layers.
        ShapeMismatch: the layers are not a range of the model's, or a tensor has a wrong shape.
        OutOfBlocks: the KV cache does not fit the device.
        ModelError: there is no such device or dtype.
    """
    checkpoint, chosen = Checkpoint.open(path), torch_device(device)
    config = checkpoint.config
    if not 0 <= start < end <= config.num_layers:
        raise ShapeMismatch(f"layers {start}:{end}: expected a range in 0:{config.num_layers}")
    kind = compute_dtype(dtype, chosen)
    with torch.inference_mode():
        network = build_network(Path(path), start, end, kind, chosen)
        load_weights(network, checkpoint, start, end, chosen, on_progress)
        release_freed_memory()
        heads, size = config.num_kv_heads, config.head_dim
        cache = KVCache(
            end - start, num_blocks, block_tokens, heads, size, kind, chosen,
            token_major=chosen.type == "cuda",
        )  # fmt: skip
        shard = TorchShard(network, config, (start, end), cache, torch_dtype(wire_dtype), kind)
    _log.info(
        "shard loaded layers=%d:%d device=%s dtype=%s weight_bytes=%d kv_bytes=%d",
        start, end, device, kind, shard.resident_bytes, shard.kv_bytes,
    )  # fmt: skip
    return shard


class TorchShard:
    """Layers of a model as tensors; `load_shard` makes it."""

    def __init__(
        self,
        network: Any,
        config: ModelConfig,
        layers: tuple[int, int],
        cache: KVCache,
        wire_dtype: torch.dtype,
        dtype: torch.dtype,
    ) -> None:
        self._network, self._config, self._layers, self._cache = network, config, layers, cache
        self._device = cache.device
        self._masks = CausalMasks(dtype, self._device)
        self._kernel = find_kernel(
            self._device, dtype, cache.block_tokens, config.num_kv_heads, config.head_dim
        )
        self._staging = Staging(config.hidden_size, wire_dtype, dtype, self._device)
        self._softcap = getattr(network.config, "final_logit_softcapping", None)
        self._resident_bytes = num_resident_bytes(network)

    @property
    def layers(self) -> tuple[int, int]:
        """The half-open layer range."""
        return self._layers

    @property
    def num_blocks(self) -> int:
        """KV blocks in this shard's cache: N."""
        return self._cache.num_blocks

    @property
    def block_tokens(self) -> int:
        """Tokens in a KV block: P."""
        return self._cache.block_tokens

    @property
    def resident_bytes(self) -> int:
        """Bytes of weights and buffers on the device."""
        return self._resident_bytes

    @property
    def kv_bytes(self) -> int:
        """Bytes reserved for the KV cache."""
        return self._cache.num_bytes

    @torch.inference_mode()
    def forward(self, batch: ForwardBatch, hidden: memoryview | None) -> ForwardResult:
        """Run the layers over one batch, writing its KV entries into the blocks it names.

        Raises:
            ShapeMismatch: `hidden` has not the bytes that the batch needs, or a token id is
                outside the vocabulary.
            OutOfBlocks: a block table names a block outside the cache, or too few blocks.
        """
        layout.check_blocks(batch, self.num_blocks, self.block_tokens)
        inputs = self._inputs(batch, hidden)
        step = Step(batch, self._cache, self._layers[0], self._masks, self._kernel, self._device)
        places = torch.from_numpy(layout.positions(batch)).to(self._device)
        out = self._network.model(
            **inputs, position_ids=places[None], use_cache=False, **{STEP_KEYWORD: step}
        ).last_hidden_state[0]
        if self._layers[1] < self._config.num_layers:
            return ForwardResult(self._staging.to_bytes(out), None)
        return ForwardResult(None, self._next_tokens(out, batch))

    def read_blocks(self, layer: int, block_ids: npt.NDArray[np.int32]) -> bytes:
        """The KV bytes of some blocks of one layer, in the order asked."""
        return self._cache.read(layout.check_layer(layer, self._layers), block_ids)

    def write_blocks(self, layer: int, block_ids: npt.NDArray[np.int32], data: bytes) -> None:
        """Put back what `read_blocks` of a shard of the same geometry and dtype gave."""
        self._cache.write(layout.check_layer(layer, self._layers), block_ids, data)

    def _inputs(self, batch: ForwardBatch, hidden: memoryview | None) -> dict[str, torch.Tensor]:
        if self._layers[0] > 0:
            return {"inputs_embeds": self._staging.to_tensor(hidden, batch.num_tokens)[None]}
        layout.check_token_ids(batch.token_ids, self._config.vocab_size)
        token_ids = torch.from_numpy(batch.token_ids.astype(np.int64)).to(self._device)
        return {"input_ids": token_ids[None]}

    def _next_tokens(self, out: torch.Tensor, batch: ForwardBatch) -> npt.NDArray[np.int32]:
        """Logits for the last token of each sequence that asks, and a draw from each."""
        last = (np.cumsum(batch.lengths) - 1)[batch.samples]
        if not len(last):
            return np.full(batch.num_sequences, -1, np.int32)
        rows = out.index_select(0, torch.from_numpy(last).to(self._device, torch.int64))
        logits = self._network.lm_head(rows).float()
        if self._softcap is not None:
            logits = torch.tanh(logits / self._softcap) * self._softcap
        return sample(logits, batch, self._config.eos_token_ids)
