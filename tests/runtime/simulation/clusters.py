"""Small clusters for tests, and a simulation of them."""

import random
from collections.abc import Callable
from typing import Any

from runtime.simulation.cluster_file import Cluster
from runtime.simulation.cluster_reading import parse_cluster
from runtime.simulation.faults import parse_faults
from runtime.simulation.load import limited, poisson
from runtime.simulation.report import summary
from runtime.simulation.simulation import History, Job, simulate

MODEL = """
[model]
num_layers = 4
hidden = 512
num_heads = 8
num_kv_heads = 2
head_dim = 64
intermediate = 1024
vocab = 500
"""

NODES = """
[[nodes]]
id = "a"
devices = ["slow"]
site = "east"

[[nodes]]
id = "b"
devices = ["slow", "slow"]
site = "west"

[devices.slow]
memory_bytes = 60000000
flops_per_s = 1e10
bytes_per_s = 1e9
"""

SERVING = """
[serving]
max_model_len = 128
max_running = 8
block_tokens = 4
max_step_tokens = 32
recovery_timeout_s = 30

[times]
process_start_s = 0.5
restart_s = 0.5
load_bytes_per_s = 1e8

[load]
rate = 4
mean_prompt = 20
mean_output = 30
"""

ONE_PIPELINE = MODEL + NODES + SERVING
TWO_PIPELINES = (
    ONE_PIPELINE
    + """
[[pipelines]]
nodes = ["a"]

[[pipelines]]
nodes = ["b"]
"""
)
APART = (
    ONE_PIPELINE
    + """
[[pipelines]]
phase = "prefill"
stages = [{ node = "a", layers = "0:4" }]

[[pipelines]]
phase = "decode"
stages = [{ node = "b", device = 0, layers = "0:3" }, { node = "b", device = 1, layers = "3:4" }]
"""
)


def simulated(
    text: str = ONE_PIPELINE,
    faults: str = "",
    *,
    duration_s: float = 10.0,
    seed: int = 0,
    is_live: bool = False,
) -> History:
    """What happens to a cluster of `duration_s` of its own load."""
    cluster = parse_cluster(text)
    arrivals = limited(
        poisson(random.Random(seed), cluster.load), cluster.serving.max_model_len, duration_s, None
    )
    found = parse_faults(faults, cluster)
    return simulate(
        Job(cluster=cluster, arrivals=arrivals, faults=found, seed=seed, is_live=is_live)
    )


def marks(history: History, kind: str, holds: Callable[[str], bool] = bool) -> list[str]:
    """What was marked of a kind."""
    return [m.text for m in history.record.marks if m.kind == kind and holds(m.text)]


def counts(history: History) -> dict[str, Any]:
    """The summary's counts of requests."""
    found: dict[str, Any] = summary(history)["requests"]
    return found


def cluster_of(text: str = TWO_PIPELINES) -> Cluster:
    """A cluster as its file would give it."""
    return parse_cluster(text)
