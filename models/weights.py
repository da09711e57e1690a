"""The weights of a shard's layers, read into the network that was built for them.

The one idea: only tensors that are still without memory are read, one target at a time, so that
the peak stays near what remains. Checkpoints that keep each expert apart are put together by
transformers' own conversion mapping.
"""

import copy
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming

from models.checkpoint import Checkpoint
from models.errors import ShapeMismatch, WeightsMissing
from models.linear import PackedLinear, PlainLinear, pack
from models.pace import Pace
from models.tensor_file import StoredTensor, map_tensor
from models.tensor_store import Hold, TensorStore

Progress = Callable[[int, int], None]
_EMBEDDING = "model.embed_tokens.weight"
_HEAD = "lm_head.weight"
# Two milliseconds of a slow link, at two bytes a number: what a step may have to wait for a slice.
_SLICE_NUMBERS = 4 << 20
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


def load_weights(
    network: Any,
    checkpoint: Checkpoint,
    start: int,
    end: int,
    device: torch.device,
    on_progress: Progress | None = None,
    pace: Pace | None = None,
    store: TensorStore | None = None,
) -> frozenset[int]:
    """Read the tensors of layers `[start, end)` into a network that `build_network` made.

    Tensors that it shares with another network are there already and are not read.

    Args:
        network: overwritten; its linear layers change for packed ones where that is faster.
        checkpoint: where the tensors are.
        start: first layer.
        end: layer after the last.
        device: where the tensors go.
        on_progress: told (bytes done, bytes in all) after each tensor.
        pace: how fast to read; None is as fast as can be.
        store: where tensors are looked for first, and left for others.

    Returns:
        The addresses of those parameters that lie in the store, and nowhere else: shared pages.

    Raises:
        WeightsMissing: the checkpoint lacks a tensor.
        ShapeMismatch: a tensor has another shape than the config says.
    """
    targets = _targets(network, checkpoint, start, end)
    spend = (pace or Pace(None)).spend
    tensors: Mapping[str, StoredTensor] = _stored_tensors(checkpoint, targets)
    hold = Hold()
    if store is not None:
        tensors, hold = store.attach(tensors, spend)
    try:
        shared = _fill(network, targets, tensors, device, on_progress, spend)
    finally:
        hold.close()
    _check_complete(network)
    return shared


def _stored_tensors(checkpoint: Checkpoint, targets: list["_Target"]) -> dict[str, StoredTensor]:
    return {name: checkpoint.tensors[name] for target in targets for name, _ in target.sources}


def _fill(
    network: Any,
    targets: list["_Target"],
    tensors: Mapping[str, StoredTensor],
    device: torch.device,
    on_progress: Progress | None,
    spend: Callable[[int], None],
) -> frozenset[int]:
    total, done = sum(network.get_parameter(target.name).nbytes for target in targets), 0
    shared: set[int] = set()
    for target in targets:
        expected = network.get_parameter(target.name)
        tensor = target.read(network, tensors, spend)
        if tensor.shape != expected.shape:
            raise ShapeMismatch(
                f"{target.name}: expected {tuple(expected.shape)}, got {tuple(tensor.shape)}"
            )
        placed = _to_device(tensor, device, expected.dtype)
        if (
            _install(network, target.name, placed)
            and placed is tensor
            and target.is_shared(tensors)
        ):
            shared.add(tensor.data_ptr())
        done += expected.nbytes
        if on_progress is not None:
            on_progress(done, total)
    return frozenset(shared)


def num_shared_bytes(network: nn.Module, shared: frozenset[int]) -> int:
    """Bytes of weights that lie in a store, by their addresses, as `load_weights` gave them."""
    kept = {p.data_ptr(): p.nbytes for p in network.parameters() if p.data_ptr() in shared}
    return sum(kept.values())


def num_resident_bytes(network: nn.Module) -> int:
    """Bytes of all weights and buffers, each counted once."""
    kept = {t.data_ptr(): t.nbytes for t in (*network.parameters(), *network.buffers())}
    packed = (m.num_bytes for m in network.modules() if isinstance(m, PackedLinear))
    return sum(kept.values()) + sum(packed)


def _read(stored: StoredTensor, spend: Callable[[int], None]) -> torch.Tensor:
    if stored.is_shared:
        mapped, begin = map_tensor(stored)
        raw = torch.frombuffer(mapped, dtype=torch.uint8, count=stored.num_bytes, offset=begin)
        spend(stored.num_bytes)
    else:
        raw = torch.empty(stored.num_bytes, dtype=torch.uint8)
        stored.read_into(raw.numpy().data, spend)
    return raw.view(_STORED[stored.dtype]).view(stored.shape)


@dataclass(slots=True)
class _Target:
    """A parameter of the network and the stored tensors that make it."""

    name: str
    converter: WeightConverter | None
    sources: list[tuple[str, str]] = field(default_factory=list)

    def is_shared(self, tensors: Mapping[str, StoredTensor]) -> bool:
        """Whether it is one tensor, and that lies in a store."""
        return self.converter is None and tensors[self.sources[0][0]].is_shared

    def read(
        self, network: Any, tensors: Mapping[str, StoredTensor], spend: Callable[[int], None]
    ) -> torch.Tensor:
        """The parameter's value: the one stored tensor, or what the conversion makes of several."""
        if self.converter is None:
            return _read(tensors[self.sources[0][0]], spend)
        # A converter collects what it is given, so every parameter needs a fresh one.
        converter: Any = copy.deepcopy(self.converter)
        for stored, pattern in self.sources:
            tensor = _read(tensors[stored], spend)
            converter.add_tensor(self.name, stored, pattern, tensor)
        made = converter.convert(self.name, model=network, config=network.config)[self.name]
        whole: torch.Tensor = made[0] if isinstance(made, list) else made
        return whole


def _targets(network: Any, checkpoint: Checkpoint, start: int, end: int) -> list[_Target]:
    transforms = get_model_conversion_mapping(network)
    parameters = {name for name, value in network.named_parameters() if value.is_meta}
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


def _to_device(tensor: torch.Tensor, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    """The tensor there, in slices, so that what the device serves beside gets its turn."""
    if device.type == "cpu":
        return tensor.to(dtype)
    placed = torch.empty(tensor.shape, dtype=dtype, device=device)
    copy_in_slices(tensor, placed)
    return placed


def copy_in_slices(source: torch.Tensor, target: torch.Tensor, size: int = _SLICE_NUMBERS) -> None:
    """Copy a tensor into another of its shape, so many numbers at a time."""
    numbers, places = source.reshape(-1), target.view(-1)
    for begin in range(0, numbers.numel(), size):
        part = slice(begin, begin + size)
        places[part].copy_(numbers[part])


def _install(network: Any, name: str, tensor: torch.Tensor) -> bool:
    """Put a tensor in its place; whether it lies there as it is, not in another layout."""
    path, _, leaf = name.rpartition(".")
    module = network.get_submodule(path)
    if leaf == "weight" and isinstance(module, nn.Linear):
        parent, _, child = path.rpartition(".")
        packed = pack(tensor, module.bias)
        setattr(network.get_submodule(parent), child, packed)
        return isinstance(packed, PlainLinear)
    setattr(module, leaf, nn.Parameter(tensor, requires_grad=False))
    return True


def _check_complete(network: Any) -> None:
    missing = [name for name, parameter in network.named_parameters() if parameter.is_meta]
    if missing:
        raise WeightsMissing(
            f"the checkpoint lacks {len(missing)} tensors of these layers, {missing[0]} among them"
        )
