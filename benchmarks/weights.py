"""How long a stage takes to load its weights: from disk, from the node's memory, from another node.

    python -m benchmarks.weights
    python -m benchmarks.weights --model ./my-llama --layers 0:8

Each round loads the same layers: from disk with nothing of the files in memory (`cold`), from disk
with all of them in the system's file cache (`warm`), from disk leaving them in a tensor store
(`fill`), and from that store, as a replacement does (`attach`). A load ends when the shard can
run: matrices are laid out anew for the processor in every case, which `attach` cannot save.

`fetch` is a node without the checkpoint that gets these layers from one that has it, by the real
actors over TCP on loopback, checked, on a disk: what must happen before `warm` there. Both ends are
in one process here, which two nodes are not. Without `--rate` nothing bounds it.
"""

import argparse
import asyncio
import os
import shutil
import tempfile
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from pathlib import Path
from statistics import median
from typing import TypeVar

from rich.console import Console
from rich.table import Table

from actors.kernel.ref import Ref
from actors.kernel.system import ActorSystem
from actors.messages import FetchWeights, WeightPolicy, WeightsFetched
from actors.weights import NAME, WeightsActor
from benchmarks.checkpoint import bench_checkpoint
from benchmarks.machine import describe_machine
from models.checkpoint import Checkpoint
from models.shard import load_shard
from models.tensor_store import TensorStore
from models.weight_places import WeightPlaces
from runtime.opening import open_system
from runtime.scratch import node_directories

_T = TypeVar("_T")

HOST, TOKEN = "127.0.0.1", "benchmark"
LARGE = 1 << 50
TIMEOUT_S = 600.0
WAYS = ("cold", "warm", "fill", "attach", "fetch")

Durations = dict[str, list[float]]


def main(arguments: list[str] | None = None) -> None:
    """Measure, and print the table."""
    options = read_options(arguments)
    path = options.model or bench_checkpoint()
    start, end = (int(number) for number in options.layers.split(":"))
    checkpoint = Checkpoint.open(path)
    num_bytes = sum(checkpoint.tensors[name].num_bytes for name in checkpoint.names(start, end))
    found = measure(path, start, end, options.rounds, options.rate)
    console = Console()
    console.print(table(found, num_bytes))
    console.print(describe_machine())


def read_options(arguments: list[str] | None) -> argparse.Namespace:
    """What was asked for."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.weights",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--model", type=Path, help="a checkpoint (default: a random Llama made for this)")
    add("--layers", default="0:6", help="which layers are loaded (default 0:6)")
    add("--rounds", type=int, default=5, help="loads of each kind (default 5)")
    add("--rate", type=float, default=1e15, help="bytes per second of fetching (default: no bound)")
    return parser.parse_args(arguments)


def measure(path: Path, start: int, end: int, rounds: int, rate: float) -> Durations:
    """Seconds of each way, round by round, after one load that warms up the libraries."""
    found: Durations = {way: [] for way in WAYS}
    model_hash = Checkpoint.open(path).content_hash

    def load(store: TensorStore | None = None) -> float:
        began = time.perf_counter()
        load_shard(path, start, end, num_blocks=8, block_tokens=16, store=store)
        return time.perf_counter() - began

    load()
    for _ in range(rounds):
        forget_files(path)
        found["cold"].append(load())
        found["warm"].append(load())
        with node_directories() as directories:
            store = TensorStore(directories.store, model_hash, LARGE)
            found["fill"].append(load(store))
            found["attach"].append(load(store))
        found["fetch"].append(asyncio.run(fetch(path, model_hash, start, end, rate)))
    return found


def forget_files(path: Path) -> None:
    """Have the system drop what it caches of a checkpoint's files, as far as it can."""
    for file in path.glob("*.safetensors"):
        with file.open("rb") as stream:
            os.fsync(stream.fileno())
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


async def fetch(path: Path, model_hash: str, start: int, end: int, rate: float) -> float:
    """Seconds that a node without the checkpoint takes to get some layers of it."""
    scratch = Path(tempfile.mkdtemp(prefix="remuda-bench-fetch-"))
    try:
        async with AsyncExitStack() as ending:
            holder = await _node(ending, "holder", path, scratch / "holder")
            node = await _node(ending, "node", scratch / "nothing", scratch / "node")
            await node[0].connect(holder[1].address, timeout_s=TIMEOUT_S)
            order = FetchWeights(
                model="m",
                model_hash=model_hash,
                start=start,
                end=end,
                policy=WeightPolicy(source="auto", holders=(holder[1],), max_bytes_per_s=rate),
            )
            began = time.perf_counter()
            answer = await node[0].ask(node[1], order, timeout_s=TIMEOUT_S)
            duration_s = time.perf_counter() - began
        assert isinstance(answer, WeightsFetched)
        assert answer.failure is None, answer.failure
        return duration_s
    finally:
        shutil.rmtree(scratch)


async def _node(
    ending: AsyncExitStack, name: str, path: Path, scratch: Path
) -> tuple[ActorSystem, Ref]:
    thread = ending.enter_context(ThreadPoolExecutor(1))

    def run(function: Callable[[], _T]) -> Awaitable[_T]:
        return asyncio.get_running_loop().run_in_executor(thread, function)

    system = await ending.enter_async_context(open_system(name, HOST, 0, TOKEN))
    places = WeightPlaces(locate=lambda _: path, landing=scratch)
    return system, system.spawn(WeightsActor(run, places), name=NAME)


def table(found: Durations, num_bytes: int) -> Table:
    """Every way's median, worst and rate, and how it compares with a cold disk."""
    shown = Table(title=f"loading {num_bytes / 1e6:.0f} MB of weights", box=None)
    shown.add_column("from")
    for heading in ("median s", "worst s", "MB/s", "of cold"):
        shown.add_column(heading, justify="right")
    cold = median(found["cold"])
    for way, durations in found.items():
        middle = median(durations)
        cells = (f"{middle:.3f}", f"{max(durations):.3f}", f"{num_bytes / middle / 1e6:.0f}")
        shown.add_row(way, *cells, f"{middle / cold:.2f}×")
    return shown


if __name__ == "__main__":
    main()
