"""What a chat model says to a few prompts, greedily and at a common temperature.

python -m examples.demo_model.samples models/demo_checkpoint
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

MAX_TOKENS = 60
TEMPERATURES = (0.0, 0.8)
TEXTS = ("The list is", "Number 3:", "This module")
QUESTIONS = (
    "Hello!",
    "Hello! What is a list?",
    "What does sorted do?",
    "Tell me about the zlib module.",
    "How do I write a good program?",
)


def main() -> None:
    """Load a checkpoint in fp32 and show its samples."""
    parser = argparse.ArgumentParser(description="Show what a small chat model says.")
    parser.add_argument("checkpoint", type=Path, help="folder of the checkpoint")
    parser.add_argument("--seed", type=int, default=1, help="of the sampled lines (default 1)")
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    model = LlamaForCausalLM.from_pretrained(options.checkpoint, dtype=torch.float32)
    for line in samples(model, PreTrainedTokenizerFast.from_pretrained(options.checkpoint)):
        print(line)


def samples(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> Iterator[str]:
    """One line for each prompt and temperature; `|` marks an end that the model chose itself."""
    prompts = [(text, tokenizer.encode(text)) for text in TEXTS]
    prompts += [(question, ask(tokenizer, question)) for question in QUESTIONS]
    for text, token_ids in prompts:
        for temperature in TEMPERATURES:
            new = complete(model, token_ids, temperature)
            words = tokenizer.decode(new, skip_special_tokens=True)
            end = "|" if new[-1] == tokenizer.eos_token_id else "..."
            yield f"[{temperature}] {text} -> {words}{end}"


def ask(tokenizer: PreTrainedTokenizerFast, question: str) -> list[int]:
    """The tokens of a chat that waits for its answer."""
    chat = [{"role": "user", "content": question}]
    text = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
    return list(tokenizer.encode(str(text), add_special_tokens=False))


def complete(model: LlamaForCausalLM, token_ids: list[int], temperature: float) -> list[int]:
    """The tokens that follow, the end token included if it comes within MAX_TOKENS."""
    prompt = torch.tensor([token_ids])
    how = {"do_sample": True, "temperature": temperature} if temperature else {"do_sample": False}
    output = model.generate(  # type: ignore[misc]  # its self type is a protocol mypy cannot match
        prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=MAX_TOKENS, **how
    )
    new: list[int] = output[0, len(token_ids) :].tolist()
    return new


if __name__ == "__main__":
    main()
