"""What a request's KV in 8 or 4 bits on the way costs: bytes, time of both devices, tokens.

    python -m benchmarks.kv_transport
    python -m benchmarks.kv_transport --tokens 128 --prompts 16

A shard computes prompts; their KV goes to another shard of the same model in each encoding, by the
very calls of a hand-off, and both go on greedily. Tokens are compared twice: as each side goes on
by itself, and with both given the exact side's tokens, where the logits are compared as well. Times
are the processor's, of one thread, for 2 MiB of the cache, beside a bare copy of the bytes.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.kv_transport_models import Candidate, candidates
from benchmarks.machine import describe_machine, machine_time
from models.device import measure_device
from models.kv_encoding import KvEncoding
from models.shard import TorchShard, load_shard
from tests.models.driving import make_batch

BLOCK_TOKENS = 16
TIMED_BYTES = 2 << 20
LOSSY: tuple[KvEncoding, ...] = ("int8", "int4")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """How many prompts of how many tokens, how many to generate, and in what dtype."""

    prompts: int
    prompt_tokens: int
    tokens: int
    dtype: str
    repeats: int = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """What an encoding of one model's KV costs in bytes and time.

    Attributes:
        ratio: bytes on the way by bytes in the cache.
        encode: seconds of reading blocks encoded, by those of a bare copy of the cache's bytes.
        decode: the same of writing them.
        encode_passes: the first, by the seconds in which the device reads as many bytes.
        decode_passes: the second, likewise.
    """

    ratio: float
    encode: float
    decode: float
    encode_passes: float
    decode_passes: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Fidelity:
    """How near what follows comes to what would have followed without the way.

    Attributes:
        same: prompts whose every token is the same, each side going on by itself.
        first: tokens until the first that is another, at the median of the prompts.
        agreement: share of equal tokens where both are given the exact side's.
        largest: the largest difference of a logit, by the standard deviation of the logits.
        mean: the mean difference, likewise.
        kl: mean divergence of the encoded side's distribution from the exact one's, in nats.
    """

    same: float
    first: float
    agreement: float
    largest: float
    mean: float
    kl: float


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure every model, and print the tables."""
    options = _parser().parse_args(arguments)
    wish = Wish(
        prompts=options.prompts,
        prompt_tokens=options.prompt_tokens,
        tokens=options.tokens,
        dtype=options.dtype,
    )
    torch.set_num_threads(1)
    before, reading = machine_time(), measure_device("cpu").bytes_per_s
    costs, kept = _costs_table(), _fidelity_table(wish)
    for candidate in candidates()[: options.models]:
        for encoding in LOSSY:
            cost, fidelity = measure(candidate, encoding, wish, reading)
            _add_costs(costs, candidate.name, encoding, cost)
            _add_fidelity(kept, candidate.name, encoding, fidelity)
    console = Console(width=120)
    console.print(costs)
    console.print(kept)
    others = machine_time().foreign_cores_since(before)
    console.print(f"{describe_machine()}; others used {others:.2f} cores on average")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.kv_transport",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--prompts", type=int, default=8, help="prompts a model (default 8)")
    add("--prompt-tokens", type=int, default=200, help="tokens of each (default 200)")
    add("--tokens", type=int, default=64, help="tokens generated for each (default 64)")
    add("--dtype", default="float32", choices=["float32", "bfloat16", "float16"])
    add("--models", type=int, default=3, help="how many of the models (default 3)")
    return parser


def measure(
    candidate: Candidate, encoding: KvEncoding, wish: Wish, bytes_per_s: float
) -> tuple[Costs, Fidelity]:
    """Both kinds of figures of one model and encoding."""
    prompts = candidate.prompts(wish.prompts, wish.prompt_tokens)
    tables = _tables(prompts, wish.tokens)
    exact, encoded = (_shard(candidate, wish, 1 + tables[-1][-1]) for _ in range(2))
    starts, blocks = [0] * len(prompts), np.concatenate([np.asarray(t, np.int32) for t in tables])
    first = _step(exact, prompts, starts, tables)
    for layer in range(*exact.layers):
        encoded.write_blocks(layer, blocks, exact.read_blocks(layer, blocks, encoding), encoding)
    costs = _costs(exact, encoded, blocks, encoding, wish.repeats, bytes_per_s)
    return costs, _fidelity(exact, encoded, prompts, tables, first[0], wish.tokens)


def _tables(prompts: Sequence[Sequence[int]], num_tokens: int) -> list[list[int]]:
    """Blocks of each prompt and what follows it, none shared."""
    tables, taken = [], 0
    for prompt in prompts:
        needed = -(-(len(prompt) + num_tokens) // BLOCK_TOKENS)
        tables.append(list(range(taken, taken + needed)))
        taken += needed
    return tables


def _shard(candidate: Candidate, wish: Wish, num_blocks: int) -> TorchShard:
    from models.checkpoint import Checkpoint

    num_layers = Checkpoint.open(candidate.path).config.num_layers
    return load_shard(
        candidate.path,
        0,
        num_layers,
        num_blocks=num_blocks,
        block_tokens=BLOCK_TOKENS,
        dtype=wish.dtype,
    )


# --- tokens and logits


def _step(
    shard: TorchShard,
    tokens: Sequence[Sequence[int]],
    starts: Sequence[int],
    tables: Sequence[Sequence[int]],
) -> tuple[list[int], torch.Tensor]:
    """One forward: the tokens that follow, greedily, and the logits they are drawn from: [B, V]."""
    seen: list[torch.Tensor] = []

    def look(_module: Any, _inputs: Any, logits: torch.Tensor) -> None:
        seen.append(logits.detach().double())

    hook = shard.network.lm_head.register_forward_hook(look)
    try:
        result = shard.forward(make_batch(tokens, starts, tables, suppress_eos=True), None)
    finally:
        hook.remove()
    assert result.token_ids is not None
    return result.token_ids.tolist(), seen[-1]


def _fidelity(
    exact: TorchShard,
    encoded: TorchShard,
    prompts: Sequence[Sequence[int]],
    tables: Sequence[Sequence[int]],
    first: list[int],
    num_tokens: int,
) -> Fidelity:
    right, given, logits = _follow(exact, prompts, tables, first, num_tokens, None)
    _, alike, near = _follow(encoded, prompts, tables, first, num_tokens, right)
    # Last, since it writes tokens of its own behind the prompts.
    alone, _, _ = _follow(encoded, prompts, tables, first, num_tokens, None)
    assert given == right
    same = [[a == b for a, b in zip(r, o, strict=True)] for r, o in zip(right, alone, strict=True)]
    forced = [a == b for r, o in zip(right, alike, strict=True) for a, b in zip(r, o, strict=True)]
    far = (logits - near).abs() / logits.std()
    kl = torch.nn.functional.kl_div(
        near.log_softmax(-1), logits.log_softmax(-1), log_target=True, reduction="none"
    ).sum(-1)
    return Fidelity(
        same=sum(map(all, same)) / len(same),
        first=median([*row, False].index(False) for row in same),
        agreement=sum(forced) / len(forced),
        largest=float(far.max()),
        mean=float(far.mean()),
        kl=float(kl.mean()),
    )


def _follow(
    shard: TorchShard,
    prompts: Sequence[Sequence[int]],
    tables: Sequence[Sequence[int]],
    first: list[int],
    num_tokens: int,
    text: list[list[int]] | None,
) -> tuple[list[list[int]], list[list[int]], torch.Tensor]:
    """Go on from the first token, by the shard's own tokens or by a text's.

    Returns:
        What was gone on by, what was drawn, both without the first token; and the logits.
    """
    drawn: list[list[int]] = [[] for _ in prompts]
    last, logits = first, []
    for place in range(num_tokens):
        starts = [len(prompt) + place for prompt in prompts]
        tokens, found = _step(shard, [[token] for token in last], starts, tables)
        for row, token in zip(drawn, tokens, strict=True):
            row.append(token)
        logits.append(found)
        last = tokens if text is None else [row[place] for row in text]
    return drawn if text is None else text, drawn, torch.stack(logits)


# --- bytes and time


def _costs(
    exact: TorchShard,
    encoded: TorchShard,
    blocks: "np.ndarray[Any, np.dtype[np.int32]]",
    encoding: KvEncoding,
    repeats: int,
    bytes_per_s: float,
) -> Costs:
    count = max(1, min(len(blocks), TIMED_BYTES // exact.block_bytes()))
    some, num_bytes = blocks[:count], count * exact.block_bytes()
    data = exact.read_blocks(0, some, encoding)
    whole, place = np.asarray(exact.read_blocks(0, some)), np.empty(num_bytes, np.uint8)
    copy_s = _fastest_s(lambda: np.copyto(place, whole), repeats)
    encode_s = _fastest_s(lambda: exact.read_blocks(0, some, encoding), repeats)
    decode_s = _fastest_s(lambda: encoded.write_blocks(0, some, data, encoding), repeats)
    return Costs(
        ratio=exact.block_bytes(encoding) / exact.block_bytes(),
        encode=encode_s / copy_s,
        decode=decode_s / copy_s,
        encode_passes=encode_s / num_bytes * bytes_per_s,
        decode_passes=decode_s / num_bytes * bytes_per_s,
    )


def _fastest_s(work: Callable[[], object], repeats: int) -> float:
    """Processor seconds of the fastest of some runs; other work on the machine only ever adds."""
    work()
    times = []
    for _ in range(repeats):
        began = time.thread_time()
        work()
        times.append(time.thread_time() - began)
    return max(min(times), 1e-9)


# --- tables


def _costs_table() -> Table:
    table = Table(title="2 MiB of KV on the way", box=None)
    for heading in ("model", "encoding"):
        table.add_column(heading)
    for heading in ("bytes", "encode", "decode", "encode", "decode"):
        table.add_column(heading, justify="right")
    table.caption = "times by that of a bare copy, then by that of reading as much on this device"
    return table


def _add_costs(table: Table, name: str, encoding: KvEncoding, costs: Costs) -> None:
    table.add_row(
        name,
        encoding,
        f"{costs.ratio:.3f}",
        f"{costs.encode:.1f}×",
        f"{costs.decode:.1f}×",
        f"{costs.encode_passes:.1f}×",
        f"{costs.decode_passes:.1f}×",
    )


def _fidelity_table(wish: Wish) -> Table:
    title = f"after {wish.prompts} prompts of {wish.prompt_tokens} tokens, {wish.tokens} more each"
    table = Table(title=f"{title}, {wish.dtype}", box=None)
    for heading in ("model", "encoding"):
        table.add_column(heading)
    for heading in ("all same", "first other", "agree", "logit max", "mean", "KL, nats"):
        table.add_column(heading, justify="right")
    table.caption = "logit differences by the logits' standard deviation"
    return table


def _add_fidelity(table: Table, name: str, encoding: KvEncoding, found: Fidelity) -> None:
    table.add_row(
        name,
        encoding,
        f"{100 * found.same:.0f} %",
        f"{found.first:g}",
        f"{100 * found.agreement:.1f} %",
        f"{found.largest:.3f}",
        f"{found.mean:.4f}",
        f"{found.kl:.2e}",
    )


if __name__ == "__main__":
    main()
