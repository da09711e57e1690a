"""Tokens per second of a served pipeline beside other systems, on one checkpoint, in one run.

    python -m benchmarks.serve
    python -m benchmarks.serve --vllm-python ~/vllm/bin/python --llama-python ~/llama/bin/python \
        --gguf model.gguf --json rates.json

Every request has a random prompt of its own and generates a fixed number of tokens greedily.
Remuda is measured over HTTP, streamed, with everything that a client's request passes; the others
in their own process, called directly. All systems are loaded once and take turns at every
concurrency, so that a slow minute of the machine hits each of them; what counts is the median of
the rounds, and of the ratios within one round.
"""

import argparse
import contextlib
import itertools
import json
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import TypeVar

from rich.console import Console
from rich.table import Table

from benchmarks.checkpoint import bench_checkpoint
from benchmarks.idle import StageLoad, watched_stages
from benchmarks.idle import table_of as idle_table_of
from benchmarks.machine import describe_machine, machine_time, resident_bytes
from benchmarks.service import stages_of
from benchmarks.systems import Burst, Peer, Remuda, System, Unavailable

OURS = "remuda"
TARGETS = {"transformers": {1: 1.0, 8: 1.2, 16: 1.2, 32: 1.2}}
"""What our rate must be of a system's, at a concurrency."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """One burst: output tokens per second, and the cores that others used meanwhile."""

    rate: float
    foreign_cores: float


_Round = TypeVar("_Round", bound=tuple[Measurement, ...])


@dataclass(slots=True)
class Results:
    """The measurements of each system at each concurrency, round by round.

    Where a round was undisturbed (others used at most `quiet` cores), only such rounds count.
    """

    quiet: float
    rounds: dict[str, dict[int, list[Measurement]]] = field(default_factory=dict)

    def add(self, system: str, concurrency: int, measured: Measurement) -> None:
        """Take the measurement of one round."""
        self.rounds.setdefault(system, {}).setdefault(concurrency, []).append(measured)

    def of(self, system: str, concurrency: int) -> list[Measurement]:
        """The measurements of all rounds."""
        return self.rounds.get(system, {}).get(concurrency, [])

    def rate(self, system: str, concurrency: int) -> float | None:
        """The median of the rounds that count, if there were any."""
        counted = self._counted([(measured,) for measured in self.of(system, concurrency)])
        return median(measured.rate for (measured,) in counted) if counted else None

    def ratio(self, system: str, concurrency: int) -> float | None:
        """The median, over the rounds that count, of our rate by the system's in that round."""
        both = zip(self.of(OURS, concurrency), self.of(system, concurrency), strict=False)
        counted = self._counted(list(both))
        return median(ours.rate / theirs.rate for ours, theirs in counted) if counted else None

    def max_foreign_cores(self) -> float:
        """The most that others used of the machine in any measurement that counts."""
        counted = [
            measured
            for counts in self.rounds.values()
            for rounds in counts.values()
            for (measured,) in self._counted([(measured,) for measured in rounds])
        ]
        return max((measured.foreign_cores for measured in counted), default=0.0)

    def _counted(self, rounds: list[_Round]) -> list[_Round]:
        undisturbed = [r for r in rounds if all(m.foreign_cores <= self.quiet for m in r)]
        return undisturbed or rounds


def main(arguments: list[str] | None = None) -> None:
    """Measure every system round by round and print the tables."""
    options = _parser().parse_args(arguments)
    concurrency = [int(c) for c in options.concurrency.split(",")]
    results, loads, stages = measure(options, concurrency)
    console = Console()
    console.print(rate_table(results, concurrency))
    console.print(_circumstances(results))
    if stages:
        console.print(memory_table(stages))
        console.print(idle_table_of(loads, f"bursts of {max(concurrency)} requests"))
    if options.json:
        options.json.write_text(json.dumps(_plain(results), indent=2), encoding="utf-8")


_QUIET_HELP = "repeat a burst while others use more of the machine than this (default 0.2)"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--model", type=Path, help="a checkpoint (default: a random Llama made for this)")
    add("--prompt", type=int, default=128, help="tokens of each prompt (default 128)")
    add("--new", type=int, default=64, help="tokens generated for each (default 64)")
    add("--concurrency", default="1,8,16,32", help="requests at a time (default 1,8,16,32)")
    add("--rounds", type=int, default=3, help="rounds over all systems (default 3)")
    add("--quiet", type=float, default=0.2, metavar="CORES", help=_QUIET_HELP)
    add("--retries", type=int, default=2, help="repetitions of a disturbed burst (default 2)")
    add("--stages", type=int, default=2, help="stages of our pipeline (default 2)")
    add("--layers", default="", help="its layers by hand, as 0:7,7:12 (default: as it measures)")
    add("--launch", action="append", default=[], metavar="KEY=VALUE", help="more --set for it")
    add("--threads", type=int, help="threads of each peer (default: the machine's cores)")
    add("--device", default="cpu", help="where transformers runs, cpu or cuda (default cpu)")
    add("--dtype", default="float32", help="what all compute in (default float32)")
    add("--only", default="", metavar="SYSTEM,...", help="measure these alone")
    add("--vllm-python", help="interpreter of an environment that holds vLLM")
    add("--llama-python", help="interpreter of an environment that holds llama-cpp-python")
    add("--gguf", help="the same checkpoint in llama.cpp's format, float32")
    add("--json", type=Path, help="write the rates of every round here as well")
    return parser


def measure(
    options: argparse.Namespace, concurrency: list[int]
) -> tuple[Results, list[StageLoad], list[dict[str, object]]]:
    """Rates of all systems, what our stages did in the last largest burst, and what they hold."""
    results = Results(quiet=options.quiet)
    loads: list[StageLoad] = []
    stages: list[dict[str, object]] = []
    with contextlib.ExitStack() as running:
        systems = _start(options, running)
        for system in systems.values():
            system.run(Burst(1, options.prompt, 4, seed=0))
        for number, count, (name, system) in itertools.product(
            range(options.rounds), concurrency, systems.items()
        ):
            burst = Burst(count, options.prompt, options.new, seed=1000 * number + count)
            with _watched(system) as watched:
                measured = _least_disturbed(system, burst, options)
            loads = watched if watched and count == max(concurrency) else loads
            results.add(name, count, measured)
            sys.stderr.write(
                f"round {number + 1}: {count:3} {name} {measured.rate:.1f} tokens/s, "
                f"others used {measured.foreign_cores:.2f} cores\n"
            )
        for system in systems.values():
            stages = _with_resident_now(system.url) if isinstance(system, Remuda) else stages
    return results, loads, stages


def _least_disturbed(system: System, burst: Burst, options: argparse.Namespace) -> Measurement:
    """Repeat a burst while others use too much of the machine; the quietest one counts."""
    tries: list[Measurement] = []
    while len(tries) <= options.retries:
        before = machine_time()
        rate = system.run(burst)
        foreign_cores = machine_time().foreign_cores_since(before)
        tries.append(Measurement(rate=rate, foreign_cores=foreign_cores))
        if foreign_cores <= options.quiet:
            break
    return min(tries, key=lambda measured: measured.foreign_cores)


def _with_resident_now(url: str) -> list[dict[str, object]]:
    """The stages with what their processes hold after the load, KV cache and all."""
    return [stage | {"resident_now": resident_bytes(stage["pid"])} for stage in stages_of(url)]


def _watched(system: System) -> "contextlib.AbstractContextManager[list[StageLoad]]":
    if isinstance(system, Remuda):
        return watched_stages(stages_of(system.url))
    return contextlib.nullcontext([])


def _start(options: argparse.Namespace, running: contextlib.ExitStack) -> dict[str, System]:
    """Every system that was asked for and runs here, loaded."""
    model = str(options.model or bench_checkpoint())
    found: dict[str, System] = {}
    if _wanted(options, OURS):
        found[OURS] = running.enter_context(Remuda(model, _launch_arguments(options)))
    for name, python, path in (
        ("transformers", sys.executable, model),
        ("continuous", sys.executable, model),
        ("vllm", options.vllm_python, model),
        ("vllm-pp2", options.vllm_python, model),
        ("llama.cpp", options.llama_python, options.gguf),
    ):
        if python and path and _wanted(options, name):
            peer = Peer(name, python, path, _peer_arguments(options))
            try:
                found[name] = running.enter_context(peer)
            except Unavailable as error:
                sys.stderr.write(f"{error}\n")
    return found


def _wanted(options: argparse.Namespace, name: str) -> bool:
    return not options.only or name in options.only.split(",")


def _launch_arguments(options: argparse.Namespace) -> list[str]:
    split = ["--layers", options.layers] if options.layers else ["--stages", str(options.stages)]
    settings = [f"model.dtype={options.dtype}", *options.launch]
    return [*split, *(part for setting in settings for part in ("--set", setting))]


def _peer_arguments(options: argparse.Namespace) -> list[str]:
    threads = ["--threads", str(options.threads)] if options.threads else []
    return [*threads, "--device", options.device, "--dtype", options.dtype]


def _circumstances(results: Results) -> str:
    return (
        f"{describe_machine()}; others used at most {results.max_foreign_cores():.2f} cores "
        f"during a measurement\n"
    )


def _plain(results: Results) -> dict[str, object]:
    return {
        "machine": describe_machine(),
        "tokens_per_s": {
            name: {count: [asdict(measured) for measured in ms] for count, ms in counts.items()}
            for name, counts in results.rounds.items()
        },
    }


def rate_table(results: Results, concurrency: list[int]) -> Table:
    """Every system's median rate, and what ours is of it; ✓ or ✗ where there is a target."""
    table = Table(title="output tokens/s, end to end (in brackets: Remuda's, of it)", box=None)
    table.add_column("system")
    for count in concurrency:
        table.add_column(f"{count} request{'s' if count > 1 else ''}", justify="right")
    for name in results.rounds:
        table.add_row(name, *(_cell(results, name, count) for count in concurrency))
    return table


def _cell(results: Results, name: str, count: int) -> str:
    rate, ratio = results.rate(name, count), results.ratio(name, count)
    if rate is None:
        return "–"
    if name == OURS or ratio is None:
        return f"{rate:.1f}"
    target = TARGETS.get(name, {}).get(count)
    verdict = "" if target is None else f", target {target} {'✓' if ratio >= target else '✗'}"
    return f"{rate:.1f} ({ratio:.2f}×{verdict})"


def memory_table(stages: list[dict[str, object]]) -> Table:
    """What each stage's process holds beside the bytes of its own weights."""
    table = Table(title="memory of the stage processes, MB", box=None)
    for heading in ("stage", "layers", "weights", "loaded", "÷ weights", "after load", "÷ weights"):
        table.add_column(heading, justify="right")
    for stage in stages:
        keys = ("weight_bytes", "resident_bytes", "resident_now")
        weights, loaded, now = (float(str(stage[key])) for key in keys)
        cells = [f"{weights / 1e6:.0f}"]
        for resident in (loaded, now):
            cells += [f"{resident / 1e6:.0f}", f"{resident / weights:.2f}×"]
        table.add_row(str(stage["stage"]), str(stage["layers"]), *cells)
    return table


if __name__ == "__main__":
    main()
