"""The models whose KV is handed off, and prompts for them.

The demo model has learned something and is asked to go on with prose. The random ones are of other
kinds of attention; theirs is made to matter by larger weights, since a network that is freshly
initialised hardly looks at its context.
"""

import random
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.demo import demo_path

_SIZES: dict[str, Any] = {
    "hidden_size": 512,
    "intermediate_size": 1024,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "head_dim": 64,
    "vocab_size": 4096,
    "max_position_embeddings": 2048,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 1,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A model to hand off the KV of, and how its prompts are made: so many, of so many tokens."""

    name: str
    path: Path
    prompts: Callable[[int, int], list[list[int]]]


def candidates(folder: Path | None = None) -> list[Candidate]:
    """The demo model, a random Llama with grouped queries, a random Gemma 3 with a head each."""
    root = folder or Path(tempfile.gettempdir()) / "remuda-bench-kv-transport"
    return [
        Candidate(name="demo (trained)", path=demo_path(), prompts=_prose),
        Candidate(name="llama, 8 heads over 2", path=_llama(root / "llama"), prompts=_noise),
        Candidate(name="gemma3, 8 heads over 8", path=_gemma(root / "gemma3"), prompts=_noise),
    ]


def _llama(path: Path) -> Path:
    import transformers as hf

    return _made(path, lambda: hf.LlamaConfig(**_SIZES, num_key_value_heads=2))


def _gemma(path: Path) -> Path:
    import transformers as hf

    return _made(path, lambda: hf.Gemma3TextConfig(**_SIZES, num_key_value_heads=8))


def _made(path: Path, config: Callable[[], Any]) -> Path:
    """The checkpoint of a random network, made once."""
    import torch
    from transformers import AutoModelForCausalLM

    if not (path / "done").exists():
        torch.manual_seed(0)
        new: Any = AutoModelForCausalLM.from_config
        network = new(config()).float()
        with torch.no_grad():
            for name, parameter in network.named_parameters():
                if parameter.dim() > 1 and "embed" not in name and "lm_head" not in name:
                    parameter.mul_(3)
        network.save_pretrained(path)
        (path / "done").touch()
    return path


def _noise(num_prompts: int, num_tokens: int) -> list[list[int]]:
    rng = random.Random(0)
    return [
        [rng.randrange(2, _SIZES["vocab_size"]) for _ in range(num_tokens)]
        for _ in range(num_prompts)
    ]


def _prose(num_prompts: int, num_tokens: int) -> list[list[int]]:
    """Stretches of what the demo model was taught with: the standard library's docstrings."""
    from examples.demo_model.corpus import stdlib_entries
    from models.tokenizer import Tokenizer

    tokenizer = Tokenizer.from_directory(demo_path())
    texts = [" ".join(entry.paragraphs) for entry in stdlib_entries()]
    longest = sorted(texts, key=len)[-num_prompts:]
    return [tokenizer.encode(text)[:num_tokens] for text in longest]
