"""Small random checkpoints of every supported family, and what transformers makes of them."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers as hf
from tokenizers import Tokenizer, models, pre_tokenizers

NUM_LAYERS = 5
WINDOW = 12
VOCAB = 300
EOS = 257

_COMMON: dict[str, Any] = {
    "hidden_size": 96,
    "intermediate_size": 96,
    "num_hidden_layers": NUM_LAYERS,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": VOCAB,
    "max_position_embeddings": 512,
    "bos_token_id": 256,
    "eos_token_id": EOS,
    "pad_token_id": EOS,
}
_LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
_KINDS = ["sliding_attention", "full_attention"]
_MIXED = [_KINDS[kind] for kind in (0, 0, 1, 0, 1)]

FAMILIES: dict[str, Callable[[], hf.PretrainedConfig]] = {
    "llama": lambda: hf.LlamaConfig(**_COMMON, rope_parameters=_LLAMA3),
    "qwen2": lambda: hf.Qwen2Config(
        **{k: v for k, v in _COMMON.items() if k != "head_dim"},
        tie_word_embeddings=True,
    ),
    "qwen3": lambda: hf.Qwen3Config(**_COMMON),
    "mistral": lambda: hf.MistralConfig(**_COMMON, sliding_window=WINDOW),
    "gemma3": lambda: hf.Gemma3TextConfig(
        **_COMMON, sliding_window=WINDOW, query_pre_attn_scalar=16, layer_types=_MIXED
    ),
    "mixtral": lambda: hf.MixtralConfig(**_COMMON, num_local_experts=4, num_experts_per_tok=2),
    "qwen3_moe": lambda: hf.Qwen3MoeConfig(
        **_COMMON, num_experts=6, num_experts_per_tok=2, moe_intermediate_size=48
    ),
}


def make_checkpoint(family: str, root: Path) -> Path:
    """A checkpoint in several files, whose tokens depend on all of their context."""
    path = root / family
    torch.manual_seed(sorted(FAMILIES).index(family))
    model = new_model(family).float().eval()
    tied = model.get_input_embeddings().weight is model.get_output_embeddings().weight
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.mul_(_spread(name, parameter, tied))
    model.save_pretrained(path, max_shard_size="200KB")
    make_tokenizer(path)
    return path


def new_model(family: str) -> Any:
    """Transformers' own network of a family, freshly initialised."""
    make: Any = hf.AutoModelForCausalLM.from_config
    return make(FAMILIES[family]())


def _spread(name: str, parameter: torch.Tensor, tied: bool) -> float:
    """Freshly initialised networks nearly ignore their input; this makes them care."""
    if parameter.dim() < 2:
        return 1.0
    if tied:
        return 1.0 if "embed" in name else 5.0
    return 20.0 if "embed" in name or "lm_head" in name else 2.0


def make_tokenizer(path: Path) -> None:
    """A tokenizer with one word a token."""
    words = {f"t{index}": index for index in range(VOCAB)}
    fast = Tokenizer(models.WordLevel(vocab=words, unk_token="t299"))
    fast.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    make: Any = hf.PreTrainedTokenizerFast
    make(
        tokenizer_object=fast, bos_token="t256", eos_token="t257", unk_token="t299"
    ).save_pretrained(path)


def greedy(path: Path, prompts: Sequence[list[int]], num_tokens: int) -> list[list[int] | None]:
    """Transformers' own continuation of each prompt, None where rounding alone could change it.

    A continuation counts only if one forward over the whole text picks the same tokens as the
    cached, token-by-token one, and by a margin far above rounding.
    """
    model: Any = hf.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    model.eval()
    return [_greedy_one(model, prompt, num_tokens) for prompt in prompts]


@torch.inference_mode()
def _greedy_one(model: Any, prompt: list[int], num_tokens: int) -> list[int] | None:
    text = model.generate(
        torch.tensor([prompt]),
        max_new_tokens=num_tokens,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
    )
    generated = text[0, len(prompt) :]
    logits = model(text).logits[0, len(prompt) - 1 : -1]
    first, second = logits.topk(2).values.unbind(-1)
    agrees = bool((logits.argmax(-1) == generated).all())
    margin = float((first - second).min() / logits.std())
    return generated.tolist() if agrees and margin > 1e-3 else None
