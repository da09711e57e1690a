"""A checkpoint of a few megabytes whose numbers nobody computes with, but for its bytes."""

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

NUM_LAYERS = 3
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "num_hidden_layers": NUM_LAYERS,
    "hidden_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 128,
    "vocab_size": 100,
    "max_position_embeddings": 256,
    "tie_word_embeddings": False,
    "torch_dtype": "float32",
    "eos_token_id": 2,
    "bos_token_id": 1,
}


def write_checkpoint(directory: Path, seed: int = 0) -> Path:
    """Layers of 5 MiB, so that each is several pieces; other weights for another seed."""
    directory.mkdir(parents=True)
    rng = np.random.default_rng(seed)

    def numbers(*shape: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
        return rng.random(shape, np.float32)

    tensors = {
        "model.embed_tokens.weight": numbers(100, 64),
        "model.norm.weight": numbers(64),
        "lm_head.weight": numbers(100, 64),
    }
    for layer in range(NUM_LAYERS):
        tensors[f"model.layers.{layer}.mlp.up_proj.weight"] = numbers(1280, 1024)
        tensors[f"model.layers.{layer}.input_layernorm.weight"] = numbers(64)
    save_file(tensors, directory / "model.safetensors")
    (directory / "config.json").write_text(json.dumps(CONFIG))
    (directory / "tokenizer.json").write_text('{"a": 1}')
    (directory / "secret.txt").write_text("nobody's business")
    return directory
