"""What a model is, read from its directory as plain JSON.

The one idea: planning, the gateway and handshakes need a model's numbers in every process, so they
are read without torch or transformers. What the numbers make the network do is transformers'
business; nothing here knows a tensor.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.errors import BadCheckpoint, UnsupportedModel


@dataclass(frozen=True, slots=True)
class _Family:
    """What an architecture assumes where its config.json is silent."""

    model_type: str
    tied: bool = False
    num_kv_heads: int | None = None
    head_dim: int | None = None


SUPPORTED: Mapping[str, _Family] = {
    "LlamaForCausalLM": _Family("llama"),
    "MistralForCausalLM": _Family("mistral", num_kv_heads=8),
    "MixtralForCausalLM": _Family("mixtral", num_kv_heads=8),
    "Qwen2ForCausalLM": _Family("qwen2", num_kv_heads=32),
    "Qwen3ForCausalLM": _Family("qwen3", num_kv_heads=32, head_dim=128),
    "Qwen3MoeForCausalLM": _Family("qwen3_moe", num_kv_heads=4),
    "Gemma3ForCausalLM": _Family("gemma3_text", tied=True, num_kv_heads=4, head_dim=256),
}

# Other kinds make a token's rotation depend on the longest sequence of its batch.
_ROPE_TYPES = {"default", "linear", "llama3", "yarn"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """The numbers of a decoder that planning and serving need.

    `windows` has one entry a layer: how many tokens back it attends to, or None for all of them.
    """

    architecture: str
    num_layers: int
    hidden_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    max_position: int
    eos_token_ids: tuple[int, ...]
    bos_token_id: int | None
    tie_word_embeddings: bool
    windows: tuple[int | None, ...]
    dtype: str
    num_experts: int
    experts_per_token: int

    @classmethod
    def from_directory(cls, path: str | Path) -> "ModelConfig":
        """Read `config.json` and, where there is one, `generation_config.json`.

        Raises:
            UnsupportedModel: the architecture is not one we run, or the weights are quantized.
            BadCheckpoint: a file is missing, garbled or lacks a number we need.
        """
        where = Path(path) / "config.json"
        return _from_raw(_Fields(where, read_json(where)), _generation_eos(Path(path)))

    def kv_bytes_per_token(self, num_layers: int, itemsize: int) -> int:
        """Bytes of KV cache that one token takes in `num_layers` layers."""
        return num_layers * 2 * self.num_kv_heads * self.head_dim * itemsize


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object from a file.

    Raises:
        BadCheckpoint: there is no such file, or it holds something else.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadCheckpoint(f"{path}: expected a readable file, got {error.strerror}") from error
    except ValueError as error:
        raise BadCheckpoint(f"{path}: expected JSON, got {error}") from error
    if not isinstance(value, dict):
        raise BadCheckpoint(f"{path}: expected a JSON object, got {type(value).__name__}")
    return value


class _Fields:
    """A config's entries, checked as they are taken."""

    def __init__(self, where: Path, raw: dict[str, Any]) -> None:
        self.where, self.raw = where, raw

    def number(self, key: str, default: int | None = None) -> int:
        value = self.raw.get(key)
        value = default if value is None else value
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise BadCheckpoint(f"{self.where}: {key}: expected a positive integer, got {value!r}")
        return value

    def token_ids(self, key: str) -> tuple[int, ...]:
        value = self.raw.get(key)
        ids = value if isinstance(value, list) else [] if value is None else [value]
        if not all(isinstance(i, int) and not isinstance(i, bool) and i >= 0 for i in ids):
            raise BadCheckpoint(f"{self.where}: {key}: expected token ids, got {value!r}")
        return tuple(ids)


def _from_raw(fields: _Fields, generation_eos: tuple[int, ...]) -> ModelConfig:
    architecture = _architecture(fields)
    family, raw = SUPPORTED[architecture], fields.raw
    num_layers = fields.number("num_hidden_layers")
    hidden_size, num_heads = fields.number("hidden_size"), fields.number("num_attention_heads")
    experts = raw.get("num_local_experts") or raw.get("num_experts") or 0
    bos = fields.token_ids("bos_token_id")
    return ModelConfig(
        architecture=architecture,
        num_layers=num_layers,
        hidden_size=hidden_size,
        num_heads=num_heads,
        num_kv_heads=fields.number("num_key_value_heads", family.num_kv_heads or num_heads),
        head_dim=fields.number("head_dim", family.head_dim or hidden_size // num_heads),
        vocab_size=fields.number("vocab_size"),
        max_position=fields.number("max_position_embeddings"),
        eos_token_ids=tuple(dict.fromkeys(fields.token_ids("eos_token_id") + generation_eos)),
        bos_token_id=bos[0] if bos else None,
        tie_word_embeddings=bool(raw.get("tie_word_embeddings", family.tied)),
        windows=_windows(fields, family.model_type, num_layers),
        dtype=str(raw.get("dtype") or raw.get("torch_dtype") or "float32"),
        num_experts=experts,
        experts_per_token=fields.number("num_experts_per_tok", 2) if experts else 0,
    )


def _architecture(fields: _Fields) -> str:
    named = fields.raw.get("architectures") or [None]
    if named[0] not in SUPPORTED:
        raise UnsupportedModel(
            f"{fields.where}: architecture {named[0]!r} is not supported; "
            f"supported are {', '.join(sorted(SUPPORTED))}"
        )
    if fields.raw.get("quantization_config"):
        raise UnsupportedModel(f"{fields.where}: quantized checkpoints are not supported")
    if wrong := _rope_types(fields.raw) - _ROPE_TYPES:
        raise UnsupportedModel(
            f"{fields.where}: rope type {wrong.pop()!r} is not supported; "
            f"supported are {', '.join(sorted(_ROPE_TYPES))}"
        )
    return str(named[0])


def _rope_types(raw: Mapping[str, Any]) -> set[str]:
    """The kinds of rotary embedding named: at the top, or one for each kind of layer."""
    rope = raw.get("rope_parameters") or raw.get("rope_scaling") or {}
    parts = [rope, *(part for part in rope.values() if isinstance(part, Mapping))]
    named = (part.get("rope_type") or part.get("type") for part in parts)
    return {str(kind) for kind in named if kind}


def _generation_eos(directory: Path) -> tuple[int, ...]:
    where = directory / "generation_config.json"
    return _Fields(where, read_json(where)).token_ids("eos_token_id") if where.exists() else ()


def _windows(fields: _Fields, model_type: str, num_layers: int) -> tuple[int | None, ...]:
    raw = fields.raw
    if model_type == "llama" or (
        model_type.startswith("qwen") and not raw.get("use_sliding_window")
    ):
        return (None,) * num_layers
    if model_type in ("mistral", "mixtral"):
        return (raw.get("sliding_window"),) * num_layers
    window = fields.number("sliding_window", 4096)
    types = raw.get("layer_types") or _default_layer_types(fields, model_type, num_layers)
    return tuple(window if kind == "sliding_attention" else None for kind in types[:num_layers])


def _default_layer_types(fields: _Fields, model_type: str, num_layers: int) -> list[str]:
    if model_type == "gemma3_text":
        pattern = fields.number("sliding_window_pattern", 6)
        full = [(layer + 1) % pattern == 0 for layer in range(num_layers)]
    else:
        first = int(fields.raw.get("max_window_layers", 28))
        full = [layer < first for layer in range(num_layers)]
    return ["full_attention" if is_full else "sliding_attention" for is_full in full]
