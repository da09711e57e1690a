"""A model's numbers, from its Hugging Face configuration or by the name of a known one.

The one idea: what planning needs of a model is a `ModelShape`; a configuration says all of it. Its
keys differ between families only in names. What it does not say is taken as transformers takes it;
what planning would get wrong is refused rather than guessed.
"""

from collections.abc import Mapping
from dataclasses import fields
from types import MappingProxyType
from typing import Any

import msgspec

from scheduling.errors import SchedulingError
from scheduling.roofline import ModelShape

_DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "float8_e4m3fn": 1}
_SCALES_PART = 1 / 32
"""Scales and zero points beside quantised weights: about one 16-bit scale for 128 of 4 bits."""


class UnknownModel(SchedulingError):
    """A name that no known model has, or a configuration that lacks what planning needs."""


def profile(config: Mapping[str, Any]) -> ModelShape:
    """Read a `config.json`: grouped queries, experts, tied embeddings, windows, quantisation.

    A configuration of several parts (vision and text) is read in its text part.

    Raises:
        UnknownModel: a number is missing; says which.

    Example:
        >>> shape = profile({"num_hidden_layers": 32, "hidden_size": 4096, "vocab_size": 32000,
        ...                  "num_attention_heads": 32, "num_key_value_heads": 8,
        ...                  "intermediate_size": 14336, "num_local_experts": 8,
        ...                  "num_experts_per_tok": 2})
        >>> round(shape.num_parameters / 1e9, 1)
        46.7
    """
    if not isinstance(config, Mapping):
        raise UnknownModel(f"config: expected an object, got {type(config).__name__}")
    inner = config.get("text_config") or {}
    if not isinstance(inner, Mapping):
        raise UnknownModel(f"config: expected text_config to be an object, got {inner!r:.80}")
    text = {**config, **inner}
    layers, heads = _number(text, "num_hidden_layers"), _number(text, "num_attention_heads")
    hidden = _number(text, "hidden_size")
    experts = _number_or(text, "num_local_experts", 0) or _number_or(text, "num_experts", 0)
    dtype_bytes = _DTYPE_BYTES.get(str(text.get("torch_dtype", text.get("dtype"))), 2)
    window, num_window_layers = _window(text, layers)
    shape = ModelShape(
        num_layers=layers,
        hidden=hidden,
        num_heads=heads,
        num_kv_heads=_number_or(text, "num_key_value_heads", heads),
        head_dim=_number_or(text, "head_dim", hidden // heads),
        intermediate=_intermediate(text, experts),
        vocab=_number(text, "vocab_size"),
        dtype_bytes=dtype_bytes,
        tied=bool(text.get("tie_word_embeddings", False)),
        num_experts=experts,
        num_active_experts=_number_or(text, "num_experts_per_tok", 0) if experts else 0,
        shared_intermediate=_number_or(text, "shared_expert_intermediate_size", 0),
        weight_bytes=_weight_bytes(config, text),
        window=window,
        num_window_layers=num_window_layers,
    )
    return check_shape(shape)


def shape_of(numbers: Mapping[str, Any]) -> ModelShape:
    """A model by its own numbers, as a cluster file's `[model]` gives them.

    Raises:
        UnknownModel: a number is missing, unknown, of another type or out of range.
    """
    known = [field.name for field in fields(ModelShape)]
    unknown = sorted(set(numbers) - set(known))
    if unknown:
        raise UnknownModel(f"model: {unknown[0]!r:.80} is not one of {', '.join(known)}")
    try:
        return check_shape(msgspec.convert(dict(numbers), ModelShape))
    except msgspec.ValidationError as error:
        raise UnknownModel(f"model: {error}") from None


def check_shape(shape: ModelShape) -> ModelShape:
    """The shape itself, if its numbers can be a model's.

    Raises:
        UnknownModel: one is out of range; says which and what was expected.
    """
    ranges = {
        "num_layers": (1, 10_000),
        "hidden": (1, 10**7),
        "num_heads": (1, 10**6),
        "num_kv_heads": (1, shape.num_heads),
        "head_dim": (1, 10**6),
        "intermediate": (1, 10**8),
        "vocab": (1, 10**9),
        "dtype_bytes": (1, 16),
        "num_experts": (0, 10**5),
        "num_active_experts": (min(1, shape.num_experts), max(0, shape.num_experts)),
        "shared_intermediate": (0, 10**8),
        "weight_bytes": (0, 16),
        "window": (0, 10**9),
        "num_window_layers": (0, shape.num_layers),
    }
    for name, (least, most) in ranges.items():
        if not least <= getattr(shape, name) <= most:
            raise UnknownModel(
                f"model: expected {name} from {least} to {most}, got {getattr(shape, name)!r:.40}"
            )
    return shape


def _number(config: Mapping[str, Any], key: str) -> int:
    value = config.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise UnknownModel(f"config: expected {key} of 1 or more, got {value!r:.80}")
    return value


def _number_or(config: Mapping[str, Any], key: str, otherwise: int) -> int:
    """A number that may be missing, null or 0."""
    return _number(config, key) if config.get(key) else otherwise


def _intermediate(config: Mapping[str, Any], experts: int) -> int:
    if experts and config.get("moe_intermediate_size"):
        return _number(config, "moe_intermediate_size")
    return _number(config, "intermediate_size")


def _window(config: Mapping[str, Any], num_layers: int) -> tuple[int, int]:
    """Positions of a sliding layer, and how many layers slide."""
    window = _number_or(config, "sliding_window", 0)
    if not window or config.get("use_sliding_window") is False:
        return 0, 0
    kinds = config.get("layer_types")
    if isinstance(kinds, list | tuple):
        return window, sum(kind == "sliding_attention" for kind in kinds)
    every = _number_or(config, "sliding_window_pattern", 0)
    return window, num_layers - num_layers // every if every else num_layers


def _weight_bytes(config: Mapping[str, Any], text: Mapping[str, Any]) -> float:
    """Bytes of a layer's weight, scales included; 0 where nothing is quantised."""
    how = config.get("quantization_config") or text.get("quantization_config")
    if not isinstance(how, Mapping):
        return 0.0
    bits = how.get("bits") or how.get("w_bit")
    if bits is None:
        bits = 4 if how.get("load_in_4bit") else 8 if how.get("load_in_8bit") else None
    if bits is None and "fp8" in str(how.get("quant_method")):
        bits = 8
    if bits is None:
        raise UnknownModel(f"config: quantization {dict(how)}: expected bits, got none")
    if not isinstance(bits, int | float) or isinstance(bits, bool) or not 0 < bits <= 64:
        raise UnknownModel(f"config: expected bits of quantization from 1 to 64, got {bits!r:.80}")
    return float(bits) / 8 * (1 + _SCALES_PART)


def known_model(name: str) -> ModelShape:
    """The numbers of a model by name.

    Raises:
        UnknownModel: none has that name; says which do.
    """
    if name not in MODELS:
        raise UnknownModel(f"model: {name!r} is not one of {', '.join(MODELS)}")
    return MODELS[name]


def _decoder(
    num_layers: int,
    hidden: int,
    heads: tuple[int, int, int],
    intermediate: int,
    vocab: int,
    **more: Any,
) -> ModelShape:
    num_heads, num_kv_heads, head_dim = heads
    return ModelShape(
        num_layers=num_layers,
        hidden=hidden,
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        intermediate=intermediate,
        vocab=vocab,
        **more,
    )


MODELS = MappingProxyType(
    {
        "llama-1b": _decoder(16, 2048, (32, 8, 64), 8192, 128256, tied=True),
        "llama-8b": _decoder(32, 4096, (32, 8, 128), 14336, 128256),
        "llama-30b": _decoder(60, 6656, (52, 52, 128), 17920, 32000),
        "llama2-70b": _decoder(80, 8192, (64, 8, 128), 28672, 32000),
        "llama2-70b-int8": _decoder(80, 8192, (64, 8, 128), 28672, 32000, dtype_bytes=1),
        "llama-70b": _decoder(80, 8192, (64, 8, 128), 28672, 128256),
        "qwen3-32b": _decoder(64, 5120, (64, 8, 128), 25600, 151936),
        "qwen3-30b-a3b": _decoder(
            48, 2048, (32, 4, 128), 768, 151936, num_experts=128, num_active_experts=8
        ),
        "mixtral-8x7b": _decoder(
            32, 4096, (32, 8, 128), 14336, 32000, num_experts=8, num_active_experts=2
        ),
        "llama-405b": _decoder(126, 16384, (128, 8, 128), 53248, 128256),
    }
)
"""Models that a plan can name without their files."""
