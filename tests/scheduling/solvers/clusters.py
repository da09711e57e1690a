"""Small random clusters and models for the solvers' tests, and a clock that only counts."""

import numpy as np

from scheduling.cluster import Cluster, Link, Node
from scheduling.goal import Goal, Limits
from scheduling.roofline import LinkRate, ModelShape
from scheduling.solvers.interface import Budget, Problem, Solution, Solver
from scheduling.workload import fixed

KINDS = ("T4", "L4", "A10G", "4090", "A100-40G")
LIMITS = Limits(max_running=32, max_step_tokens=512, max_model_len=1024)


def small_shape(num_layers: int = 8, **more: object) -> ModelShape:
    numbers = {
        "hidden": 4096,
        "num_heads": 32,
        "num_kv_heads": 8,
        "head_dim": 128,
        "intermediate": 36000,
        "vocab": 32000,
    }
    return ModelShape(num_layers=num_layers, **{**numbers, **more})  # type: ignore[arg-type]


def random_problem(seed: int, *, max_devices: int = 4, goal: Goal | None = None) -> Problem:
    """A cluster of a few devices on one or two sites, which holds the model or nearly so."""
    rng = np.random.default_rng(seed)
    num_devices = int(rng.integers(2, max_devices + 1))
    nodes = tuple(
        Node(
            id=f"n{i}",
            devices=(KINDS[int(rng.integers(len(KINDS)))],),
            site=f"site-{int(rng.integers(2))}",
            price_per_hour=float(rng.uniform(0.3, 3.0)),
            interruptions_per_hour=float(rng.choice([0.0, 0.5])),
        )
        for i in range(num_devices)
    )
    fast = LinkRate(bytes_per_s=float(rng.uniform(0.5e9, 10e9)), latency_s=1e-3)
    sites = sorted({node.site for node in nodes})
    links = (Link(between=(sites[0], sites[1]), rate=fast),) if len(sites) == 2 else ()
    # 0.94 GB a layer: one device of 16 GB holds about 14 of them
    shape = small_shape(int(rng.integers(8, 40)))
    return Problem(
        cluster=Cluster(nodes=nodes, links=links),
        shape=shape,
        workload=fixed(int(rng.integers(20, 600)), int(rng.integers(20, 300))),
        goal=goal or Goal(),
        limits=LIMITS,
    )


class CountingClock:
    """A clock that goes on by a little whenever it is read, so that budgets are deterministic."""

    def __init__(self, step_s: float = 1e-3) -> None:
        self.now_s, self.step_s = 0.0, step_s

    def __call__(self) -> float:
        self.now_s += self.step_s
        return self.now_s


def counted(seconds: float = 1.0) -> Budget:
    return Budget(seconds=seconds, clock=CountingClock())


def last_of(
    solver: Solver, problem: Problem, seconds: float = 1.0, seed: int = 0
) -> Solution | None:
    last = None
    for last in solver(problem, budget=counted(seconds), seed=seed):  # noqa: B007
        pass
    return last
