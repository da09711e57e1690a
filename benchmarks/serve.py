"""Tokens per second of a served pipeline beside other systems, on one checkpoint, in one run.

    python benchmarks/serve.py
    python benchmarks/serve.py --vllm-python ~/vllm/bin/python --llama-python ~/llama/bin/python \
        --gguf model.gguf

Every request has a random prompt of its own and generates a fixed number of tokens greedily.
Remuda is measured over HTTP, streamed, with everything a client's request passes; the others in-
process. Rounds of all systems take turns, so that a slow minute of the machine hits each; the
best round counts.
"""

import argparse
import asyncio
import json
import subprocess
import sys
import time
from pathlib import Path

import aiohttp
from rich.console import Console
from rich.table import Table

from benchmarks.checkpoint import VOCAB_SIZE, bench_checkpoint
from benchmarks.peers import make_prompts
from benchmarks.service import get_json, running_service

PEERS = Path(__file__).with_name("peers.py")
Rates = dict[int, float]


def main() -> None:
    """Measure every system round by round and print the table."""
    options = _parser().parse_args()
    model = str(options.model or bench_checkpoint())
    concurrency = [int(c) for c in options.concurrency.split(",")]
    best: dict[str, Rates] = {}
    for number in range(options.rounds):
        for name, rates in _round(options, model, concurrency):
            sys.stderr.write(f"round {number + 1}: {name} {_short(rates)}\n")
            known = best.setdefault(name, {})
            known.update({c: max(rate, known.get(c, 0.0)) for c, rate in rates.items()})
    _show(best, concurrency)
    if options.json:
        options.json.write_text(json.dumps(best, indent=2), encoding="utf-8")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--model", type=Path, help="a checkpoint (default: a random Llama made for this)")
    add("--prompt", type=int, default=128, help="tokens of each prompt (default 128)")
    add("--new", type=int, default=64, help="tokens generated for each (default 64)")
    add("--concurrency", default="1,8,16,32", help="requests at a time (default 1,8,16,32)")
    add("--rounds", type=int, default=2, help="rounds over all systems; the best counts")
    add("--stages", type=int, default=2, help="stages of Remuda's pipeline (default 2)")
    add("--launch", action="append", default=[], metavar="KEY=VALUE", help="more --set for it")
    add("--skip", action="append", default=[], metavar="SYSTEM", help="leave a system out")
    add("--vllm-python", help="interpreter of an environment with vLLM's CPU build")
    add("--llama-python", help="interpreter of an environment with llama-cpp-python")
    add("--gguf", help="the same checkpoint converted for llama.cpp")
    add("--json", type=Path, help="write the rates here as well")
    return parser


def _round(
    options: argparse.Namespace, model: str, concurrency: list[int]
) -> list[tuple[str, Rates]]:
    systems = [("remuda", lambda: _remuda(options, model, concurrency))]
    for name, python, path in (
        ("transformers", sys.executable, model),
        ("continuous", sys.executable, model),
        ("vllm", options.vllm_python, model),
        ("vllm-pp2", options.vllm_python, model),
        ("llama.cpp", options.llama_python, options.gguf),
    ):
        if python and path:
            run = lambda n=name, p=python, m=path: _peer(options, p, n, m)  # noqa: E731
            systems.append((name, run))
    return [(name, run()) for name, run in systems if name not in options.skip]


def _peer(options: argparse.Namespace, python: str, name: str, model: str) -> Rates:
    command = [python, str(PEERS), name, model]
    for flag in ("prompt", "new", "concurrency"):
        command += [f"--{flag}", str(getattr(options, flag))]
    done = subprocess.run(
        [*command, "--rounds", "1", "--vocab", str(VOCAB_SIZE)], capture_output=True, text=True
    )
    if done.returncode != 0:
        sys.stderr.write(f"{name} does not run here: {done.stderr.strip()[-300:]}\n")
        return {}
    found = json.loads(done.stdout.strip().splitlines()[-1])
    return {int(c): run["tokens"] / run["seconds"] for c, run in found.items()}


def _remuda(options: argparse.Namespace, model: str, concurrency: list[int]) -> Rates:
    arguments = ["--model", model, "--stages", str(options.stages)]
    for setting in options.launch:
        arguments += ["--set", setting]
    with running_service(*arguments) as url:
        name = get_json(f"{url}/v1/models")["data"][0]["id"]
        rates = {c: asyncio.run(_load(url, name, c, options)) for c in concurrency}
        for pipeline in get_json(f"{url}/admin/status")["pipelines"]:
            for stage in pipeline["stages"]:
                sys.stderr.write(
                    f"  stage {stage['stage']} layers {stage['layers']} "
                    f"weights {stage['weight_bytes'] / 1e6:.0f} MB "
                    f"resident {stage['resident_bytes'] / 1e6:.0f} MB\n"
                )
    return rates


async def _load(url: str, model: str, concurrency: int, options: argparse.Namespace) -> float:
    prompts = make_prompts(concurrency, options.prompt, VOCAB_SIZE)
    timeout = aiohttp.ClientTimeout(total=600)
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(timeout=timeout, connector=connector) as session:
        await _complete(session, url, model, prompts[0], 4)
        began = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(_complete(session, url, model, prompt, options.new))
                for prompt in prompts
            ]
        seconds = time.perf_counter() - began
    tokens = sum(task.result() for task in tasks)
    if tokens != concurrency * options.new:
        raise SystemExit(f"expected {concurrency * options.new} tokens, got {tokens}")
    return tokens / seconds


async def _complete(
    session: aiohttp.ClientSession, url: str, model: str, prompt: list[int], new: int
) -> int:
    """Stream one completion; the number of tokens that the service says it made."""
    body = {
        "model": model,
        "prompt": prompt,
        "max_tokens": new,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    tokens = 0
    async with session.post(f"{url}/v1/completions", json=body) as answer:
        answer.raise_for_status()
        async for line in answer.content:
            if line.startswith(b"data: {") and b'"usage":{' in line.replace(b" ", b""):
                tokens = json.loads(line[6:])["usage"]["completion_tokens"]
    return tokens


def _short(rates: Rates) -> str:
    return " ".join(f"{c}:{rate:.1f}" for c, rate in rates.items())


def _show(best: dict[str, Rates], concurrency: list[int]) -> None:
    table = Table(title="output tokens/s, end to end (Remuda ÷ system)", box=None)
    table.add_column("system")
    for c in concurrency:
        table.add_column(f"{c} requests", justify="right")
    ours = best.get("remuda", {})
    for name, rates in best.items():
        table.add_row(name, *(_cell(rates.get(c), ours.get(c), name) for c in concurrency))
    Console().print(table)


def _cell(rate: float | None, ours: float | None, name: str) -> str:
    if rate is None:
        return "–"
    ratio = f" ({ours / rate:.2f}×)" if ours and name != "remuda" else ""
    return f"{rate:.1f}{ratio}"


if __name__ == "__main__":
    main()
