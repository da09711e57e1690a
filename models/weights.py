"""A shard's network: transformers' own modules, with only our layers' weights in them.

The one idea: the whole network is built without memory, then what is not ours becomes a module
that passes its input on, and the tensors of our layers alone are read, one target at a time, so
that the peak stays near what remains. Checkpoints that keep each expert apart are put together by
transformers' own conversion mapping.
"""

import copy
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming

from models.attention import NAME
from models.checkpoint import Checkpoint
from models.errors import ShapeMismatch, WeightsMissing
from models.linear import PackedLinear, pack
from models.tensor_file import StoredTensor

Progress = Callable[[int, int], None]
_EMBEDDING = "model.embed_tokens.weight"
_HEAD = "lm_head.weight"
_STORED = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "U8": torch.uint8,
    "I8": torch.int8,
}


class PassThrough(nn.Module):
    """Stands where a layer of another shard was."""

    def forward(self, hidden: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        """Return the first argument."""
        return hidden


def build_network(
    path: Path, start: int, end: int, dtype: torch.dtype, device: torch.device
) -> Any:
    """The causal language model on no memory, with other shards' modules passed through.

    Its buffers (rotary frequencies, embedding scales), which no checkpoint holds, are real.
    """
    config = AutoConfig.from_pretrained(path, local_files_only=True)
    if device.type == "cpu":
        # The grouped product of experts wants bfloat16 on a CPU.
        config._experts_implementation = "eager"
    with torch.device("meta"):
        make: Any = AutoModelForCausalLM.from_config
        network = make(config, dtype=dtype, attn_implementation=NAME)
    _pass_through(network, start, end, config.num_hidden_layers)
    _fill_buffers(network, device)
    return network.eval().requires_grad_(False)


def load_weights(
    network: Any,
    checkpoint: Checkpoint,
    start: int,
    end: int,
    device: torch.device,
    on_progress: Progress | None = None,
) -> None:
    """Read the tensors of layers `[start, end)` into a network that `build_network` made.

    Args:
        network: overwritten; its linear layers change for packed ones where that is faster.
        checkpoint: where the tensors are.
        start: first layer.
        end: layer after the last.
        device: where the tensors go.
        on_progress: told (bytes done, bytes in all) after each tensor.

    Raises:
        WeightsMissing: the checkpoint lacks a tensor.
        ShapeMismatch: a tensor has another shape than the config says.
    """
    targets = _targets(network, checkpoint, start, end)
    total, done = sum(network.get_parameter(target.name).nbytes for target in targets), 0
    for target in targets:
        expected = network.get_parameter(target.name)
        tensor = target.read(network, checkpoint)
        if tensor.shape != expected.shape:
            raise ShapeMismatch(
                f"{target.name}: expected {tuple(expected.shape)}, got {tuple(tensor.shape)}"
            )
        _install(network, target.name, tensor.to(device, expected.dtype))
        done += expected.nbytes
        if on_progress is not None:
            on_progress(done, total)
    _check_complete(network)


def num_resident_bytes(network: nn.Module) -> int:
    """Bytes of all weights and buffers, each counted once."""
    kept = {t.data_ptr(): t.nbytes for t in (*network.parameters(), *network.buffers())}
    packed = (m.num_bytes for m in network.modules() if isinstance(m, PackedLinear))
    return sum(kept.values()) + sum(packed)


def _pass_through(network: Any, start: int, end: int, num_layers: int) -> None:
    base = network.model
    for index in range(num_layers):
        if not start <= index < end:
            base.layers[index] = PassThrough()
    # A tied head gets a parameter of its own: its layout is the product's, not the look-up's.
    network.lm_head.weight = nn.Parameter(network.lm_head.weight.detach())
    if start > 0:
        base.embed_tokens = PassThrough()
    if end < num_layers:
        base.norm, network.lm_head = PassThrough(), PassThrough()


def _fill_buffers(network: Any, device: torch.device) -> None:
    for module in network.modules():
        hollow = {name: b for name, b in module.named_buffers(recurse=False) if b.is_meta}
        for name, buffer in hollow.items():
            setattr(module, name, torch.empty_like(buffer, device=device))
        if hollow:
            # Parameters have no memory yet, so that only the buffers take values.
            network._init_weights(module)


def _read(stored: StoredTensor) -> torch.Tensor:
    raw = torch.empty(stored.num_bytes, dtype=torch.uint8)
    stored.read_into(raw.numpy().data)
    return raw.view(_STORED[stored.dtype]).view(stored.shape)


@dataclass(slots=True)
class _Target:
    """A parameter of the network and the stored tensors that make it."""

    name: str
    converter: WeightConverter | None
    sources: list[tuple[str, str]] = field(default_factory=list)

    def read(self, network: Any, checkpoint: Checkpoint) -> torch.Tensor:
        """The parameter's value: the one stored tensor, or what the conversion makes of several."""
        if self.converter is None:
            return _read(checkpoint.tensors[self.sources[0][0]])
        # A converter collects what it is given, so every parameter needs a fresh one.
        converter: Any = copy.deepcopy(self.converter)
        for stored, pattern in self.sources:
            tensor = _read(checkpoint.tensors[stored])
            converter.add_tensor(self.name, stored, pattern, tensor)
        made = converter.convert(self.name, model=network, config=network.config)[self.name]
        whole: torch.Tensor = made[0] if isinstance(made, list) else made
        return whole


def _targets(network: Any, checkpoint: Checkpoint, start: int, end: int) -> list[_Target]:
    transforms = get_model_conversion_mapping(network)
    parameters = dict(network.named_parameters())
    targets: dict[str, _Target] = {}
    for stored in sorted(checkpoint.names(start, end), key=_natural):
        name, pattern, converter = _renamed(stored, transforms)
        if name in parameters:
            targets.setdefault(name, _Target(name, converter)).sources.append((stored, pattern))
        if name == _EMBEDDING and _HEAD in parameters and checkpoint.config.tie_word_embeddings:
            targets[_HEAD] = _Target(_HEAD, None, [(stored, "")])
    return list(targets.values())


def _renamed(stored: str, transforms: list[Any]) -> tuple[str, str, WeightConverter | None]:
    """A stored tensor's parameter by transformers' mapping, and the converter that makes it."""
    name = stored
    for transform in transforms:
        if isinstance(transform, WeightRenaming):
            name, _ = transform.rename_source_key(name)
    for transform in transforms:
        if isinstance(transform, WeightConverter):
            renamed, pattern = transform.rename_source_key(name)
            if pattern is not None:
                return renamed, pattern, transform
    return name, "", None


def _natural(name: str) -> list[tuple[int, str]]:
    """A key that puts expert 2 before expert 10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def _install(network: Any, name: str, tensor: torch.Tensor) -> None:
    path, _, leaf = name.rpartition(".")
    module = network.get_submodule(path)
    if leaf == "weight" and isinstance(module, nn.Linear):
        parent, _, child = path.rpartition(".")
        setattr(network.get_submodule(parent), child, pack(tensor, module.bias))
    else:
        setattr(module, leaf, nn.Parameter(tensor, requires_grad=False))


def _check_complete(network: Any) -> None:
    missing = [name for name, parameter in network.named_parameters() if parameter.is_meta]
    if missing:
        raise WeightsMissing(
            f"the checkpoint lacks {len(missing)} tensors of these layers, {missing[0]} among them"
        )
