import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from models.config import SUPPORTED, ModelConfig
from models.errors import BadCheckpoint, UnsupportedModel
from tests.models.families import EOS, FAMILIES, NUM_LAYERS, VOCAB, WINDOW

_LEAST = {
    "architectures": ["LlamaForCausalLM"],
    "num_hidden_layers": 2,
    "hidden_size": 32,
    "num_attention_heads": 4,
    "vocab_size": 10,
    "max_position_embeddings": 64,
}


def _write(path: Path, name: str = "config.json", **changes: Any) -> ModelConfig:
    (path / name).write_text(json.dumps(_LEAST | changes))
    return ModelConfig.from_directory(path)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_numbers_are_those_that_transformers_reads(
    family: str, checkpoint_of: Callable[[str], Path]
) -> None:
    ours, theirs = ModelConfig.from_directory(checkpoint_of(family)), FAMILIES[family]()
    assert ours.num_layers == theirs.num_hidden_layers == NUM_LAYERS
    assert (ours.num_heads, ours.num_kv_heads) == (6, 2)
    assert (ours.hidden_size, ours.head_dim) == (96, 16)
    assert (ours.vocab_size, ours.max_position) == (VOCAB, 512)
    assert (ours.bos_token_id, ours.eos_token_ids) == (256, (EOS,))
    assert ours.tie_word_embeddings == theirs.tie_word_embeddings
    experts = {"mixtral": (4, 2), "qwen3_moe": (6, 2)}.get(family, (0, 0))
    assert (ours.num_experts, ours.experts_per_token) == experts


def test_windows_are_told_layer_by_layer(checkpoint_of: Callable[[str], Path]) -> None:
    def windows(family: str) -> tuple[int | None, ...]:
        return ModelConfig.from_directory(checkpoint_of(family)).windows

    assert windows("llama") == windows("qwen3") == windows("mixtral") == (None,) * NUM_LAYERS
    assert windows("mistral") == (WINDOW,) * NUM_LAYERS
    assert windows("gemma3") == (WINDOW, WINDOW, None, WINDOW, None)


def test_windows_without_layer_types_follow_the_familys_pattern(tmp_path: Path) -> None:
    gemma = _write(
        tmp_path, architectures=["Gemma3ForCausalLM"], sliding_window=8, sliding_window_pattern=2
    )
    assert gemma.windows == (8, None)
    qwen = _write(
        tmp_path,
        architectures=["Qwen2ForCausalLM"],
        use_sliding_window=True,
        sliding_window=8,
        max_window_layers=1,
    )
    assert qwen.windows == (None, 8)


def test_what_config_json_leaves_out_is_the_familys_default(tmp_path: Path) -> None:
    llama = _write(tmp_path)
    assert (llama.num_kv_heads, llama.head_dim, llama.dtype) == (4, 8, "float32")
    assert not llama.tie_word_embeddings
    gemma = _write(tmp_path, architectures=["Gemma3ForCausalLM"])
    assert (gemma.num_kv_heads, gemma.head_dim) == (4, 256)
    assert gemma.tie_word_embeddings
    assert _write(tmp_path, torch_dtype="bfloat16").dtype == "bfloat16"


def test_end_tokens_of_both_files_count_once_each(tmp_path: Path) -> None:
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [7, 5]}))
    assert _write(tmp_path, eos_token_id=[5, 6]).eos_token_ids == (5, 6, 7)


def test_kv_bytes_count_keys_and_values_of_every_layer(tmp_path: Path) -> None:
    assert _write(tmp_path).kv_bytes_per_token(2, 4) == 2 * 2 * 4 * 8 * 4


def test_an_unknown_architecture_is_named_with_those_we_run(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModel, match="'GPT2LMHeadModel' is not supported") as caught:
        _write(tmp_path, architectures=["GPT2LMHeadModel"])
    assert all(name in str(caught.value) for name in SUPPORTED)
    with pytest.raises(UnsupportedModel, match="None is not supported"):
        _write(tmp_path, architectures=None)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"quantization_config": {"quant_method": "gptq"}}, "quantized"),
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "rope type 'dynamic'"),
        ({"rope_parameters": {"full_attention": {"rope_type": "longrope"}}}, "'longrope'"),
    ],
)
def test_what_we_would_compute_wrongly_is_refused(
    tmp_path: Path, changes: dict[str, Any], text: str
) -> None:
    with pytest.raises(UnsupportedModel, match=text):
        _write(tmp_path, **changes)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"num_hidden_layers": "12"}, "num_hidden_layers: expected a positive integer, got '12'"),
        ({"vocab_size": None}, "vocab_size: expected a positive integer, got None"),
        ({"hidden_size": True}, "hidden_size"),
        ({"num_attention_heads": 0}, "num_attention_heads"),
        ({"eos_token_id": "</s>"}, "eos_token_id: expected token ids"),
        ({"eos_token_id": [1, -2]}, "eos_token_id: expected token ids"),
    ],
)
def test_a_number_that_is_none_is_refused_by_name(
    tmp_path: Path, changes: dict[str, Any], text: str
) -> None:
    with pytest.raises(BadCheckpoint, match=text):
        _write(tmp_path, **changes)


def test_a_missing_or_garbled_file_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(BadCheckpoint, match=r"config\.json: expected a readable file"):
        ModelConfig.from_directory(tmp_path)
    for text, complaint in (("{", "expected JSON"), ("[1]", "expected a JSON object, got list")):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(BadCheckpoint, match=complaint):
            ModelConfig.from_directory(tmp_path)
    (tmp_path / "config.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BadCheckpoint, match="expected JSON"):
        ModelConfig.from_directory(tmp_path)
