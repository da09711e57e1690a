"""What handing a request off adds to the time of its second token, over a link of 1 Gbit/s.

    python -m benchmarks.phases_hand_off

One request at a time, on two emulated devices that are alike: computed and continued on the first,
and handed off to the second, with its KV as it is and in fewer bits. The actors are the real ones,
time is virtual, the wire carries the real model's bytes. What the second token comes later by is
compared with the time that all of the request's KV, as it is, would take on the link by itself.
"""

import argparse
import sys
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from runtime.simulation.catalogue import MODELS
from runtime.simulation.cluster_reading import parse_cluster
from runtime.simulation.load import Arrival
from runtime.simulation.simulation import Job, simulate

LINK_BYTES_PER_S = 1.25e8
TARGETS = {"none": 1.2, "int8": None, "int4": 0.35}
PROMPTS = (256, 1000, 4000)
EVERY_S = 120.0
MODEL = MODELS["llama-8b"]
CLUSTER = """
[model]
name = "llama-8b"

[serving]
max_step_tokens = 256
kv_transport = "{encoding}"

[[nodes]]
id = "a"
devices = ["A100-40G"]

[[nodes]]
id = "b"
devices = ["A100-40G"]

[[links]]
between = ["a", "b"]
bytes_per_s = {rate}
latency_s = 0.0002

[[pipelines]]
nodes = ["a"]
phase = "{first}"

[[pipelines]]
nodes = ["b"]
phase = "{second}"
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Added:
    """What one hand-off took, in seconds, and all of its KV on the link by itself."""

    encoding: str
    num_prompt: int
    together_s: float
    apart_s: float
    link_s: float

    @property
    def ratio(self) -> float:
        """What the second token comes later by, of the link's time."""
        return (self.apart_s - self.together_s) / self.link_s

    @property
    def is_met(self) -> bool:
        """Whether that is within its target, if it has one."""
        target = TARGETS[self.encoding]
        return target is None or self.ratio <= target


def main(arguments: list[str] | None = None) -> int:
    """Compare every prompt in every encoding; 0 if all are within their targets."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.phases_hand_off",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.parse_args(arguments)
    found = measure(PROMPTS)
    Console(width=100).print(table_of(found))
    return int(not all(added.is_met for added in found))


def measure(prompts: tuple[int, ...]) -> list[Added]:
    """Every prompt in every encoding."""
    together = second_tokens_s("none", prompts, is_apart=False)
    found = []
    for encoding in TARGETS:
        apart = second_tokens_s(encoding, prompts, is_apart=True)
        for number, num_prompt in enumerate(prompts):
            found.append(
                Added(
                    encoding=encoding,
                    num_prompt=num_prompt,
                    together_s=together[number],
                    apart_s=apart[number],
                    link_s=_kv_bytes(num_prompt) / LINK_BYTES_PER_S,
                )
            )
    return found


def second_tokens_s(encoding: str, prompts: tuple[int, ...], *, is_apart: bool) -> list[float]:
    """When the second token of each prompt came, from its arrival; one request at a time."""
    first, second = ("prefill", "decode") if is_apart else ("both", "both")
    text = CLUSTER.format(encoding=encoding, first=first, second=second, rate=LINK_BYTES_PER_S)
    arrivals = [Arrival(EVERY_S * n, length, 2) for n, length in enumerate(prompts)]
    history = simulate(Job(cluster=parse_cluster(text), arrivals=arrivals))
    if wrong := [o for o in history.outcomes if not o.is_done or o.is_right is False]:
        raise RuntimeError(f"{len(wrong)} requests failed or said something else")
    return [outcome.last_at - outcome.sent_at for outcome in history.outcomes]


def _kv_bytes(num_prompt: int) -> float:
    shape = parse_cluster(
        CLUSTER.format(encoding="none", first="both", second="both", rate=1)
    ).shape
    return num_prompt * shape.num_layers * shape.kv_bytes_per_token


def table_of(found: list[Added]) -> Table:
    """A line for every prompt and encoding."""
    table = Table(title="the second token of a request, s, over 1 Gbit/s", box=None)
    for heading in ("KV", "prompt", "together", "handed off", "added", "KV on the link", "ratio"):
        table.add_column(heading, justify="right")
    for added in found:
        target = TARGETS[added.encoding]
        told = "" if target is None else f" ≤ {target:g}x {'ok' if added.is_met else 'MISSED'}"
        seconds = (
            added.together_s,
            added.apart_s,
            added.apart_s - added.together_s,
            added.link_s,
        )
        cells = [f"{s:.3f}" for s in seconds]
        table.add_row(added.encoding, str(added.num_prompt), *cells, f"{added.ratio:.3f}x{told}")
    return table


if __name__ == "__main__":
    sys.exit(main())
