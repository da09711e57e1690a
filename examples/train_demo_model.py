"""Trains the demo model of `models/demo_checkpoint` from the interpreter's own documentation.

A Llama of twelve thin layers learns the standard library's documentation strings, as running text
and as chats, and is written in the usual checkpoint layout: deep enough to be split into stages,
small enough to live in the repository. Most rows are short, because most of what there is to learn
is near by; some are as long as the context, so that long streams stay readable.

    python -m examples.train_demo_model --out models/demo_checkpoint
"""

import argparse
import math
import random
import time
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import Progress
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from examples.demo_model.corpus import stdlib_entries
from examples.demo_model.samples import samples
from examples.demo_model.tokens import CONTEXT, IGNORED, Stream, build_stream, train_tokenizer

TOKENS_PER_STEP = 4096
ROW_LENGTHS = (256, 1024, CONTEXT)  # each divides TOKENS_PER_STEP
ROW_SHARES = (0.75, 0.15, 0.1)
WARM_UP = 0.02
HELD_OUT_EVERY = 60  # entries: one in so many is never trained on
MATRIX_RATE = 0.02  # peak learning rates
VECTOR_RATE = 0.003


def main() -> None:
    """Train, write the checkpoint, show samples."""
    options = parse_options()
    console = Console()
    torch.manual_seed(options.seed)
    torch.set_num_threads(options.threads)
    rng = random.Random(options.seed)
    entries = stdlib_entries()
    learned = [entry for index, entry in enumerate(entries) if index % HELD_OUT_EVERY]
    tokenizer = train_tokenizer(learned, rng)
    stream = build_stream(tokenizer, learned, rng)
    held_out = build_stream(tokenizer, entries[::HELD_OUT_EVERY], rng)
    model = build_model(tokenizer)
    console.print(
        f"{len(learned)} entries, {len(stream.token_ids):,} tokens, "
        f"{model.num_parameters():,} parameters"
    )
    train(model, stream, rng, options, console)
    round_weights(model)
    console.print(f"loss {mean_loss(model, stream):.3f}, held out {mean_loss(model, held_out):.3f}")
    console.print(f"{options.out}: {save(model, tokenizer, options.out) / 1e6:.2f} MB")
    for sample in samples(model, tokenizer):
        console.print(sample, markup=False, highlight=False)


def parse_options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description="Train the small demo model on the documentation of the standard library. "
        "Needs no network and no GPU: the default run takes about half an hour on two cores. The "
        "same interpreter, torch build, seed and number of steps and threads give the same model."
    )
    add = parser.add_argument
    add("--out", type=Path, default=Path("models/demo_checkpoint"), help="folder to write into")
    add("--steps", type=int, default=2400, help=f"of {TOKENS_PER_STEP} tokens (default 2400)")
    add(
        "--minutes",
        type=positive,
        default=math.inf,
        help="finish earlier, within about this time; "
        "the schedule is fitted to it, and the seed alone no longer decides the result",
    )
    add("--seed", type=int, default=1, help="of weights, wordings and row order (default 1)")
    add("--threads", type=int, default=2, help="torch threads (default 2)")
    add(
        "--fp32",
        action="store_true",
        help="compute in fp32, not in bfloat16: twice as slow on a "
        "CPU with bfloat16 instructions, and faster on one without",
    )
    return parser.parse_args()


def positive(text: str) -> float:
    """An option's number above zero."""
    number = float(text)
    if number <= 0:
        raise argparse.ArgumentTypeError(f"expected a number above 0, got {text}")
    return number


def build_model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """The architecture: 12 layers of 4 heads of 32, two of them with keys and values."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=352,
        num_hidden_layers=12,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlamaForCausalLM(config)


def train(
    model: LlamaForCausalLM,
    stream: Stream,
    rng: random.Random,
    options: argparse.Namespace,
    console: Console,
) -> None:
    """One pass of the schedule: warm-up, then a cosine to zero, over `steps` or `minutes`."""
    optimizers = build_optimizers(model)
    started = time.monotonic()
    with Progress(console=console) as bar:
        task = bar.add_task("training", total=1.0)
        for step in range(options.steps):
            seconds = time.monotonic() - started
            done = max(step / options.steps, seconds / 60 / options.minutes)
            if done >= 1:
                break
            set_rates(optimizers, done)
            rows = random_rows(stream, *rng.choices(ROW_LENGTHS, ROW_SHARES))
            loss = train_step(model, optimizers, rows, options)
            bar.update(task, completed=done)
            if step % 100 == 0:
                console.print(f"step {step} loss {loss:.3f} at {seconds:.0f} s")


def train_step(
    model: LlamaForCausalLM,
    optimizers: list[torch.optim.Optimizer],
    rows: tuple[torch.Tensor, torch.Tensor],
    options: argparse.Namespace,
) -> float:
    """Learn from one batch of rows and return its loss."""
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=not options.fp32):
        loss = next_token_loss(model, *rows)
    torch.autograd.backward(loss)
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad()
    return loss.item()


def build_optimizers(model: LlamaForCausalLM) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the layers, AdamW for the embedding and the norms."""
    matrices = [p for p in model.model.layers.parameters() if p.ndim == 2]
    known = {id(matrix) for matrix in matrices}
    others = [p for p in model.parameters() if id(p) not in known]
    return [
        torch.optim.Muon(matrices, lr=MATRIX_RATE, weight_decay=0.05),
        torch.optim.AdamW(others, lr=VECTOR_RATE, betas=(0.9, 0.95), weight_decay=0.01),
    ]


def set_rates(optimizers: list[torch.optim.Optimizer], done: float) -> None:
    """Put every learning rate at its place in the schedule."""
    scale = min(1.0, done / WARM_UP + 0.01) * 0.5 * (1 + math.cos(math.pi * done))
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = scale * group.setdefault("peak", group["lr"])


def random_rows(stream: Stream, row: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Windows of the stream at random places, TOKENS_PER_STEP in all."""
    starts = torch.randint(0, len(stream.token_ids) - row, (TOKENS_PER_STEP // row, 1))
    places = starts + torch.arange(row + 1)
    return stream.token_ids[places[:, :-1]], stream.labels[places[:, 1:]]


def next_token_loss(
    model: LlamaForCausalLM, token_ids: torch.Tensor, labels: torch.Tensor
) -> torch.Tensor:
    """Mean nats a token over the labels that are to be learned."""
    logits = model(input_ids=token_ids, use_cache=False).logits
    return functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED)


@torch.no_grad()
def mean_loss(model: LlamaForCausalLM, stream: Stream, max_rows: int = 40) -> float:
    """The loss over the first rows of a stream."""
    last = min(len(stream.token_ids) - ROW_LENGTHS[0] - 1, max_rows * ROW_LENGTHS[0])
    places = torch.arange(0, last, ROW_LENGTHS[0])[:, None] + torch.arange(ROW_LENGTHS[0] + 1)
    token_ids, labels = stream.token_ids[places[:, :-1]], stream.labels[places[:, 1:]]
    return next_token_loss(model, token_ids, labels).item()


@torch.no_grad()
def round_weights(model: LlamaForCausalLM) -> None:
    """Give every weight the value that a reader of the checkpoint will have."""
    for weight in model.parameters():
        weight.copy_(weight.to(torch.bfloat16))


def save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> int:
    """Write the checkpoint in bfloat16, which every dtype reads without loss.

    Returns:
        Its size in bytes.
    """
    weights = {name: value.to(torch.bfloat16) for name, value in model.state_dict().items()}
    model.config.dtype = torch.bfloat16
    model.save_pretrained(folder, state_dict=weights)
    tokenizer.save_pretrained(folder)
    for path in folder.iterdir():
        path.chmod(0o644)  # the weights' writer leaves them to their owner alone
    return sum(path.stat().st_size for path in folder.iterdir())


if __name__ == "__main__":
    main()
