"""A shard: layers `[start, end)` of a Hugging Face decoder at work on one device.

The one idea: a forward is a function of weights, KV blocks and batch. What it needs beyond the
weights comes in with the call and goes out with the result, as plain bytes; no request is known
here, and nothing is kept between two calls but the cache. So shards can be cut anew while they
serve: one with other layers is loaded beside one that is at work and shares what both have.
"""

import logging
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from models import layout
from models.attention import STEP_KEYWORD, CausalMasks, Step
from models.checkpoint import Checkpoint, part_of
from models.config import ModelConfig
from models.device import release_freed_memory, torch_device
from models.dtypes import compute_dtype, torch_dtype
from models.forward_batch import ForwardBatch
from models.grammar import GrammarMasks
from models.interface import Bytes, ForwardResult
from models.kv_cache import KVCache, KVGeometry
from models.kv_encoding import KvEncoding, encoded_bytes
from models.logits import next_tokens
from models.network import build_network, narrow_network
from models.pace import Pace
from models.paged_kernel import find_kernel
from models.staging import Staging
from models.tensor_store import TensorStore
from models.weights import Progress, load_weights, num_resident_bytes, num_shared_bytes

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
    held: "TorchShard | None" = None,
    max_bytes_per_s: float | None = None,
    store: TensorStore | None = None,
    model_hash: str | None = None,
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
        held: a shard that goes on as it is, at work in another thread or not. Layers that it has
            are shared with it if its model, device and dtype are the same; so is their KV if its
            blocks are, too. Only the rest is read and reserved.
        max_bytes_per_s: how fast to read; None is as fast as can be.
        store: weights that an earlier process of this node left in memory are taken from here,
            and what is read from the checkpoint is left here as far as there is room. As long as
            the shard lives, its parts stay there.
        model_hash: which model that is, where the caller knows, as for a directory that holds a
            part of it; None asks the checkpoint.

    Raises:
        UnsupportedModel: the architecture is not one we run.
        BadCheckpoint: a file is missing or garbled.
        WeightsMissing: the checkpoint lacks a tensor of these layers.
        ShapeMismatch: the layers are not a range of the model's, or a tensor has a wrong shape.
        OutOfBlocks: the KV cache does not fit the device.
        ModelError: there is no such device or dtype, or nothing may be read at that rate.
    """
    checkpoint, chosen = Checkpoint.open(path), torch_device(device)
    config = checkpoint.config
    layout.check_part((start, end), (0, config.num_layers))
    kind, wire, pace = compute_dtype(dtype, chosen), torch_dtype(wire_dtype), Pace(max_bytes_per_s)
    origin = Origin(Path(path).resolve(), model_hash or checkpoint.content_hash, kind, chosen)
    kin = held if held is not None and held.origin == origin else None
    geometry = KVGeometry(
        num_blocks=num_blocks,
        block_tokens=block_tokens,
        num_heads=config.num_kv_heads,
        head_dim=config.head_dim,
        dtype=kind,
        device=chosen,
        token_major=chosen.type == "cuda",
    )
    with torch.inference_mode():
        network = build_network(
            Path(path), start, end, kind, chosen, held=None if kin is None else kin.network
        )
        shared = load_weights(network, checkpoint, start, end, chosen, on_progress, pace, store)
        release_freed_memory()
        cache = KVCache(geometry, start, end, held=None if kin is None else kin.cache)
        shared |= frozenset() if kin is None else kin.shared
        shard = TorchShard(network, config, cache, wire, origin, shared)
        if end == config.num_layers:
            # Now, beside what serves, and not when the first request wants a grammar.
            shard.grammars.prepare()
    if store is not None:
        hold = store.hold({part_of(name) for name in checkpoint.names(start, end)})
        weakref.finalize(shard, hold.close)
    _log.info(
        "shard loaded layers=%d:%d device=%s dtype=%s weight_bytes=%d kv_bytes=%d",
        start, end, device, kind, shard.resident_bytes, shard.kv_bytes,
    )  # fmt: skip
    return shard


@dataclass(frozen=True, slots=True)
class Origin:
    """What two shards must have in common to share weights."""

    path: Path
    content_hash: str
    dtype: torch.dtype
    device: torch.device


class TorchShard:
    """Layers of a model as tensors; `load_shard` makes it.

    `network`, `cache`, `grammars`, `origin` and `shared` are for shards that are loaded beside it;
    the last holds the addresses of weights that lie in a tensor store.
    """

    def __init__(
        self,
        network: Any,
        config: ModelConfig,
        cache: KVCache,
        wire_dtype: torch.dtype,
        origin: Origin,
        shared: frozenset[int] = frozenset(),
    ) -> None:
        self.network, self.cache, self.origin, self.shared = network, cache, origin, shared
        self._config, self._layers, self._wire_dtype = config, cache.layers, wire_dtype
        self._device, dtype = origin.device, origin.dtype
        self._masks = CausalMasks(dtype, self._device)
        self._kernel = find_kernel(
            self._device, dtype, self.block_tokens, config.num_kv_heads, config.head_dim
        )
        self._staging = Staging(config.hidden_size, wire_dtype, dtype, self._device)
        self._softcap = getattr(network.config, "final_logit_softcapping", None)
        tokenizer_file = origin.path / "tokenizer.json"
        self.grammars = GrammarMasks(tokenizer_file, config.vocab_size, config.eos_token_ids)
        self._resident_bytes = num_resident_bytes(network)

    @property
    def layers(self) -> tuple[int, int]:
        """The half-open layer range."""
        return self._layers

    @property
    def num_blocks(self) -> int:
        """KV blocks in this shard's cache: N."""
        return self.cache.geometry.num_blocks

    @property
    def block_tokens(self) -> int:
        """Tokens in a KV block: P."""
        return self.cache.geometry.block_tokens

    @property
    def resident_bytes(self) -> int:
        """Bytes of weights and buffers on the device."""
        return self._resident_bytes

    @property
    def shared_bytes(self) -> int:
        """Of the resident bytes, those that lie in the tensor store: shared pages, no copy."""
        return num_shared_bytes(self.network, self.shared)

    @property
    def kv_bytes(self) -> int:
        """Bytes reserved for the KV cache."""
        return self.cache.num_bytes

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
        step = Step(batch, self.cache, self._masks, self._kernel, self._device)
        places = torch.from_numpy(layout.positions(batch)).to(self._device)
        out = self.network.model(
            **inputs, position_ids=places[None], use_cache=False, **{STEP_KEYWORD: step}
        ).last_hidden_state[0]
        if self._layers[1] < self._config.num_layers:
            return ForwardResult(self._staging.to_bytes(out), None)
        return self._next_tokens(out, batch)

    @torch.inference_mode()
    def narrowed(self, start: int, end: int) -> "TorchShard":
        """A view on some of the layers, sharing their weights and KV with this shard.

        Raises:
            ShapeMismatch: the layers are not a range of this shard's.
        """
        layout.check_part((start, end), self._layers)
        network = narrow_network(self.network, start, end)
        cache = self.cache.narrowed(start, end)
        return TorchShard(network, self._config, cache, self._wire_dtype, self.origin, self.shared)

    def block_bytes(self, encoding: KvEncoding = "none") -> int:
        """Bytes of a block of one layer on the way."""
        return encoded_bytes(1, self.cache.geometry.travelling, encoding)

    def read_blocks(
        self, layer: int, block_ids: npt.NDArray[np.int32], encoding: KvEncoding = "none"
    ) -> memoryview:
        """The KV bytes of some blocks of one layer, in the order asked."""
        return self.cache.read(layer, block_ids, encoding)

    def write_blocks(
        self,
        layer: int,
        block_ids: npt.NDArray[np.int32],
        data: Bytes,
        encoding: KvEncoding = "none",
    ) -> None:
        """Put back what `read_blocks` of a shard of the same geometry and dtype gave."""
        self.cache.write(layer, block_ids, data, encoding)

    def copy_blocks(self, sources: npt.NDArray[np.int32], targets: npt.NDArray[np.int32]) -> None:
        """Copy blocks onto others in every layer, as if all were read before any is written.

        Raises:
            OutOfBlocks: an id is outside the cache.
            ShapeMismatch: there are not as many sources as targets, or a target comes twice.
        """
        self.cache.copy(sources, targets)

    def _inputs(self, batch: ForwardBatch, hidden: memoryview | None) -> dict[str, torch.Tensor]:
        if self._layers[0] > 0:
            return {"inputs_embeds": self._staging.to_tensor(hidden, batch.num_tokens)[None]}
        layout.check_token_ids(batch.token_ids, self._config.vocab_size)
        token_ids = torch.from_numpy(batch.token_ids.astype(np.int64)).to(self._device)
        return {"input_ids": token_ids[None]}

    def _next_tokens(self, out: torch.Tensor, batch: ForwardBatch) -> ForwardResult:
        """A draw after the last token of each sequence that asks."""

        def to_logits(rows: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = self.network.lm_head(
                out.index_select(0, rows.to(self._device))
            ).float()
            if self._softcap is not None:
                logits = torch.tanh(logits / self._softcap) * self._softcap
            return logits

        tokens, logprobs = next_tokens(batch, to_logits, self._config.eos_token_ids, self.grammars)
        return ForwardResult(None, tokens, logprobs)
