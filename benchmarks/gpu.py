"""On a CUDA machine: the identity oracles on the GPU, then serving with two stages on one GPU.

    python -m benchmarks.gpu
    python -m benchmarks.gpu --model ./my-llama --new 128 --concurrency 1,16,64

1. Every family's small random checkpoint, on the GPU: one shard against transformers' `generate`,
   three shards (prompts in chunks, blocks shuffled, sequences preempted) against the same, both
   in float32; three shards against one in bfloat16, where torch's paged kernel works if it can.
2. A live service of two stage processes on one GPU, over HTTP, against `generate`, in float32.
3. The table of `benchmarks.serve`, in bfloat16, with both stages on one GPU.

It ends with 1 if an identity does not hold, with 2 on a machine without CUDA.
"""

import argparse
import asyncio
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import aiohttp
import torch
from rich.console import Console
from rich.table import Table

from benchmarks import serve
from benchmarks.load import REQUEST_TIMEOUT_S
from benchmarks.oracles import NUM_TOKENS, Finding, agree, check_family, greedy_on, oracle_prompts
from benchmarks.service import get_json, running_service, stages_of
from tests.models.families import FAMILIES, make_checkpoint

SERVED_FAMILY = "llama"
NO_CUDA = 2


def main() -> int:
    """Check, then measure."""
    options, serve_arguments = _parser().parse_known_args()
    if not torch.cuda.is_available():
        sys.stderr.write(f"benchmarks.gpu: no CUDA here ({_why()}); nothing was checked\n")
        return NO_CUDA
    torch.set_float32_matmul_precision("highest")
    console = Console()
    console.print(f"{torch.cuda.get_device_name(0)}, torch {torch.__version__}")
    with tempfile.TemporaryDirectory() as root:
        findings = list(_check_all(options.families.split(","), Path(root), "cuda:0"))
    console.print(table_of(findings))
    if not options.only_oracles:
        serve.main(["--device", "cuda", "--dtype", "bfloat16", "--stages", "2", *serve_arguments])
    return 0 if all(finding.holds for finding in findings) else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="All other arguments go to benchmarks.serve.",
        allow_abbrev=False,
    )
    parser.add_argument("--families", default=",".join(FAMILIES), help="which to check (all)")
    parser.add_argument("--only-oracles", action="store_true", help="measure nothing")
    return parser


def _why() -> str:
    if torch.version.cuda is None:
        return f"torch {torch.__version__} is a build without it"
    return f"torch {torch.__version__} is built for CUDA {torch.version.cuda} and finds no GPU"


def _check_all(families: Sequence[str], root: Path, device: str) -> Iterator[Finding]:
    for family in families:
        path = make_checkpoint(family, root)
        yield from check_family(family, path, device, "bfloat16")
        if family == SERVED_FAMILY:
            yield from check_service(path, device)


def check_service(path: Path, device: str) -> Iterator[Finding]:
    """Two stage processes on one device, asked over HTTP, give what transformers generates."""
    arguments = ["--model", str(path), "--stages", "2", "--set", "model.dtype=float32"]
    with running_service(*arguments) as url:
        devices = {stage["device"] for stage in stages_of(url)}
        model = get_json(f"{url}/v1/models")["data"][0]["id"]
        texts = asyncio.run(_complete_all(url, model, oracle_prompts()))
    yield Finding(
        family=SERVED_FAMILY,
        check=f"both stages are on {device}",
        holds=devices == {device},
        detail=", ".join(sorted(devices)),
    )
    expected = greedy_on(path, oracle_prompts(), device)
    got = [[int(word[1:]) for word in text.split()] for text in texts]
    yield agree(
        SERVED_FAMILY,
        "a service of two stages gives what transformers generates",
        got,
        [None if tokens is None else _shown(tokens) for tokens in expected],
    )


def _shown(tokens: list[int]) -> list[int]:
    """What text shows of tokens: the special ones are left out."""
    return [token for token in tokens if token not in (256, 257, 299)]


async def _complete_all(url: str, model: str, prompts: list[list[int]]) -> list[str]:
    timeout = aiohttp.ClientTimeout(total=REQUEST_TIMEOUT_S)
    async with aiohttp.ClientSession(timeout=timeout) as session, asyncio.TaskGroup() as group:
        tasks = [group.create_task(_complete(session, url, model, p)) for p in prompts]
    return [task.result() for task in tasks]


async def _complete(session: aiohttp.ClientSession, url: str, model: str, prompt: list[int]) -> str:
    body = {
        "model": model,
        "prompt": prompt,
        "max_tokens": NUM_TOKENS,
        "temperature": 0,
        "ignore_eos": True,
    }
    async with session.post(f"{url}/v1/completions", json=body) as answer:
        answer.raise_for_status()
        return str((await answer.json())["choices"][0]["text"])


def table_of(findings: list[Finding]) -> Table:
    """One line a check."""
    table = Table(title="identities on the GPU", box=None)
    for heading in ("family", "check", "", "detail"):
        table.add_column(heading)
    for found in findings:
        table.add_row(found.family, found.check, "✓" if found.holds else "✗", found.detail)
    return table


if __name__ == "__main__":
    sys.exit(main())
