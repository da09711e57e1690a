"""The identities that must hold on any device: one shard, several, paged or not, all agree.

Each check takes a small random checkpoint and gives a line of what it found. The reference is
transformers' own greedy `generate` on the same device, counted only where one forward over the
whole text picks the same tokens by a margin far above rounding.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import transformers as hf

from models.shard import TorchShard, load_shard
from tests.models.driving import Schedule, generate
from tests.models.families import NUM_LAYERS

NUM_TOKENS, MIN_STABLE = 12, 3
BLOCK_TOKENS, NUM_BLOCKS = 16, 64
LENGTHS = (1, 7, 23, 40, 16, 33)
WHOLE, SPLIT = (0, NUM_LAYERS), (0, 1, 3, NUM_LAYERS)
UNKIND = Schedule(seed=3, max_chunk=9, skip=0.3, preempt=0.05)
MIN_MARGIN = 1e-3
Tokens = list[list[int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What one check of one family gave."""

    family: str
    check: str
    holds: bool
    detail: str = ""


def oracle_prompts() -> Tokens:
    """Prompts of uneven lengths over ids that are no special tokens."""
    rng = random.Random(5)
    return [[rng.randrange(250) for _ in range(length)] for length in LENGTHS]


def check_family(family: str, path: Path, device: str, low_dtype: str) -> list[Finding]:
    """All checks of one family on one device; `low_dtype` is what paged kernels compute in."""
    prompts = oracle_prompts()
    reference = greedy_on(path, prompts, device)
    whole = _run(path, WHOLE, device, "float32", Schedule(shuffle=False))
    split = _run(path, SPLIT, device, "float32", UNKIND)
    low_whole, kernel = _run_low(path, WHOLE, device, low_dtype)
    low_split, _ = _run_low(path, SPLIT, device, low_dtype)
    return [
        agree(family, "one shard gives what transformers generates", whole, reference),
        agree(family, "three shards, chunked and preempted, give the same", split, reference),
        Finding(
            family=family,
            check=f"three shards give what one does in {low_dtype}",
            holds=low_split == low_whole,
            detail=kernel,
        ),
    ]


def _run(path: Path, bounds: Sequence[int], device: str, dtype: str, schedule: Schedule) -> Tokens:
    shards = _load(path, bounds, device, dtype)
    return generate(shards, oracle_prompts(), NUM_TOKENS, schedule)


def _run_low(path: Path, bounds: Sequence[int], device: str, dtype: str) -> tuple[Tokens, str]:
    """Tokens under one schedule, and whether torch's paged kernel made them."""
    shards = _load(path, bounds, device, dtype)
    kernel = "plain attention" if shards[0]._kernel is None else "paged kernel"
    return generate(shards, oracle_prompts(), NUM_TOKENS, Schedule(seed=7, max_chunk=9)), kernel


def _load(path: Path, bounds: Sequence[int], device: str, dtype: str) -> list[TorchShard]:
    return [
        load_shard(
            path,
            start,
            end,
            device=device,
            dtype=dtype,
            num_blocks=NUM_BLOCKS,
            block_tokens=BLOCK_TOKENS,
        )
        for start, end in pairwise(bounds)
    ]


def agree(family: str, check: str, got: Tokens, expected: list[list[int] | None]) -> Finding:
    """How many of the continuations that count are the expected ones."""
    stable = [(g, e) for g, e in zip(got, expected, strict=True) if e is not None]
    same = sum(g == e for g, e in stable)
    return Finding(
        family=family,
        check=check,
        holds=same == len(stable) >= MIN_STABLE,
        detail=f"{same} of {len(stable)} stable prompts",
    )


def greedy_on(path: Path, prompts: Tokens, device: str) -> list[list[int] | None]:
    """Transformers' continuations in float32; None where rounding alone could change one."""
    classes: Any = hf.AutoModelForCausalLM
    model = classes.from_pretrained(path, dtype=torch.float32).to(device).eval()
    return [_greedy_one(model, prompt, device) for prompt in prompts]


@torch.inference_mode()
def _greedy_one(model: Any, prompt: list[int], device: str) -> list[int] | None:
    ids = torch.tensor([prompt], device=device)
    text = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=NUM_TOKENS,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
    )
    generated = text[0, len(prompt) :]
    logits = model(text).logits[0, len(prompt) - 1 : -1]
    first, second = logits.topk(2).values.unbind(-1)
    agrees = bool((logits.argmax(-1) == generated).all())
    margin = float((first - second).min() / logits.std())
    return [int(token) for token in generated] if agrees and margin > MIN_MARGIN else None
