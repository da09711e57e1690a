"""A shard's network: transformers' own modules, before their weights are read.

The one idea: the whole network is built without memory, then what is not ours becomes a module
that passes its input on, and what another network of ours holds already becomes its very module.
What is left hollow is for `weights` to fill.

A network may be built while another one runs in another thread: nothing of the process's state is
changed that a forward could see.
"""

import copy
import threading
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from models.attention import NAME

# transformers swaps torch's initialisers while it builds; two at once would restore each other's.
_BUILDING = threading.Lock()


class PassThrough(nn.Module):
    """Stands where a layer of another shard was."""

    def forward(self, hidden: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        """Return the first argument."""
        return hidden


def build_network(
    path: Path,
    start: int,
    end: int,
    dtype: torch.dtype,
    device: torch.device,
    *,
    held: Any = None,
) -> Any:
    """The causal language model on no memory, with other shards' modules passed through.

    Its buffers (rotary frequencies, embedding scales), which no checkpoint holds, are real. What
    `held`, a loaded network of the same model, dtype and device, has of these layers is shared.
    """
    config = AutoConfig.from_pretrained(path, local_files_only=True)
    if device.type == "cpu":
        # The grouped product of experts wants bfloat16 on a CPU.
        config._experts_implementation = "eager"
    with _BUILDING:
        network = _hollow_network(config, dtype)
        _untie(network)
        _pass_through(network, start, end)
        if held is not None:
            _share(network, held)
        _fill_buffers(network, device)
    return network.eval().requires_grad_(False)


def narrow_network(network: Any, start: int, end: int) -> Any:
    """A network of some of the layers that shares all its modules with the given one."""
    narrowed, narrowed.model = _twin(network), _twin(network.model)
    narrowed.model.layers = nn.ModuleList(network.model.layers)
    _pass_through(narrowed, start, end)
    return narrowed


def _hollow_network(config: Any, dtype: torch.dtype) -> Any:
    """The whole network, its tensors without memory."""
    make: Any = AutoModelForCausalLM.from_config
    with torch.device("meta"):
        # Asked for another dtype, transformers would make it the default of the whole process
        # for a while, and a forward in another thread would compute in it.
        network = make(config, dtype=torch.get_default_dtype(), attn_implementation=NAME)
    for module in network.modules():
        for name, parameter in module.named_parameters(recurse=False):
            setattr(module, name, nn.Parameter(parameter.detach().to(dtype), requires_grad=False))
    config.dtype = dtype
    return network


def _untie(network: Any) -> None:
    """Give a tied head a parameter of its own: its layout is the product's, not the look-up's."""
    network.lm_head.weight = nn.Parameter(network.lm_head.weight.detach(), requires_grad=False)


def _pass_through(network: Any, start: int, end: int) -> None:
    base = network.model
    num_layers = len(base.layers)
    for index in range(num_layers):
        if not start <= index < end:
            base.layers[index] = PassThrough()
    if start > 0:
        base.embed_tokens = PassThrough()
    if end < num_layers:
        base.norm, network.lm_head = PassThrough(), PassThrough()


def _share(network: Any, held: Any) -> None:
    """Put modules that a loaded network holds in the places that a new one has for them."""
    pairs = [(network, held, "lm_head")]
    pairs += [(network.model, held.model, name) for name in ("embed_tokens", "norm")]
    for index in range(len(network.model.layers)):
        pairs.append((network.model.layers, held.model.layers, str(index)))
    for mine, theirs, name in pairs:
        module = theirs.get_submodule(name)
        is_wanted = not isinstance(mine.get_submodule(name), PassThrough)
        if is_wanted and not isinstance(module, PassThrough):
            setattr(mine, name, module)


def _twin(module: nn.Module) -> Any:
    """A module that is another object and has the same children, until they are replaced."""
    twin = copy.copy(module)
    twin.__dict__["_modules"] = dict(module._modules)
    return twin


def _fill_buffers(network: Any, device: torch.device) -> None:
    for module in network.modules():
        hollow = {name: b for name, b in module.named_buffers(recurse=False) if b.is_meta}
        for name, buffer in hollow.items():
            setattr(module, name, torch.empty_like(buffer, device=device))
        if hollow:
            # Parameters have no memory yet, so that only the buffers take values.
            network._init_weights(module)
