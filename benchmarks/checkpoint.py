"""A random Llama of a size worth measuring, made once and kept in a temporary folder."""

import json
import tempfile
from pathlib import Path

VOCAB_SIZE = 32000


def bench_checkpoint() -> Path:
    """Hidden 768, 12 layers, 12 heads, 4 KV heads, untied: 125 million parameters, float32."""
    path = Path(tempfile.gettempdir()) / "remuda-bench-llama"
    if not (path / "done").exists():
        _make_model(path)
        _make_tokenizer(path)
        (path / "done").touch()
    return path


def _make_model(path: Path) -> None:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=768,
        intermediate_size=2048,
        num_hidden_layers=12,
        num_attention_heads=12,
        num_key_value_heads=4,
        vocab_size=VOCAB_SIZE,
        max_position_embeddings=2048,
        bos_token_id=0,
        eos_token_id=1,
    )
    LlamaForCausalLM(config).save_pretrained(path)


def _make_tokenizer(path: Path) -> None:
    """One word per id, so that any system can encode and decode."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit

    words = {f"w{i}": i for i in range(VOCAB_SIZE)}
    tokenizer = Tokenizer(WordLevel(vocab=words, unk_token="w2"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    tokenizer.save(str(path / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "w0",
        "eos_token": "w1",
        "unk_token": "w2",
    }
    (path / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
