"""Small random problems of every sort that solvers are held against trying all on.

The one idea: a seed decides the sort and all numbers, so that a problem that a solver gets wrong
has a name. Sorts differ in what they add to a plain random cluster: money, latencies, phases,
groups of several devices, links that are odd, and devices too small for a layer.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from scheduling.cluster import Link, Node
from scheduling.goal import Goal
from scheduling.hardware import CATALOGUE, DeviceKind
from scheduling.roofline import LinkRate
from scheduling.solvers.interface import Problem
from tests.scheduling.solvers.clusters import LIMITS, random_problem

Rng = np.random.Generator
TINY = DeviceKind(
    name="tiny",
    memory_bytes=1_000_000_000,
    peak_flops_per_s=1e12,
    peak_bytes_per_s=1e11,
    flops_part=1.0,
    bytes_part=1.0,
    layer_overhead_s=30e-6,
    price_per_hour=0.1,
    source="made up: holds no layer",
)


def varied_problem(seed: int, max_devices: int = 4) -> tuple[str, Problem]:
    """The sort and the problem of a seed; sorts come in turn.

    Args:
        seed: of all numbers.
        max_devices: of a plain cluster; some sorts have fewer, those of wide nodes more.
    """
    names = list(SORTS)
    name = names[seed % len(names)]
    rng = np.random.default_rng([seed, 1])
    few = name in ("phases", "phases on time", "too small")
    devices = min(3, max_devices) if few else max_devices
    return name, SORTS[name](random_problem(seed, max_devices=devices), rng)


def _plain(problem: Problem, rng: Rng) -> Problem:
    return problem


def _money(problem: Problem, rng: Rng) -> Problem:
    prices = sum(problem.cluster.price_per_hour(node) for node in problem.cluster.nodes)
    return replace(problem, goal=Goal(budget_per_hour=float(prices * rng.uniform(0.3, 1.1))))


def _cost(problem: Problem, rng: Rng) -> Problem:
    rate = rng.choice([0.0, 0.1, 0.5, 2.0])
    load = replace(problem.workload, rate=float(rate) or None)
    return replace(problem, goal=Goal(measure="cost"), workload=load)


def _on_time(problem: Problem, rng: Rng) -> Problem:
    ttft, tpot = float(rng.uniform(0.3, 4.0)), float(rng.uniform(0.03, 0.3))
    which = rng.integers(3)
    goal = Goal(
        measure="slo",
        ttft_s=ttft if which != 1 else None,
        tpot_s=tpot if which != 0 else None,
    )
    return replace(problem, goal=goal)


def _phases(problem: Problem, rng: Rng) -> Problem:
    ratio = float(rng.choice([1.0, 0.25]))
    return replace(problem, limits=replace(LIMITS, disaggregate=True, kv_transport_ratio=ratio))


def _phases_on_time(problem: Problem, rng: Rng) -> Problem:
    return _on_time(_phases(problem, rng), rng)


def _wide(problem: Problem, rng: Rng) -> Problem:
    """Two nodes of one to three devices, of which stages may take two."""
    nodes = tuple(
        replace(node, devices=node.devices * int(rng.integers(1, 4)))
        for node in problem.cluster.nodes[:2]
    )
    sites = {node.site for node in nodes}
    links = tuple(link for link in problem.cluster.links if set(link.between) <= sites)
    cluster = replace(problem.cluster, nodes=nodes, links=links)
    return replace(problem, cluster=cluster, limits=replace(LIMITS, max_tp=2))


def _odd_links(problem: Problem, rng: Rng) -> Problem:
    """One pair of nodes with a link that is very slow, and sites whose line nobody described."""
    nodes = problem.cluster.nodes
    one, other = (nodes[int(i)].id for i in rng.choice(len(nodes), size=2, replace=False))
    slow = LinkRate(bytes_per_s=float(10 ** rng.uniform(3, 7)), latency_s=float(rng.uniform(0, 1)))
    cluster = replace(problem.cluster, links=(Link(between=(one, other), rate=slow),))
    return replace(problem, cluster=cluster)


def _slow_line(problem: Problem, rng: Rng) -> Problem:
    """Two sites with a thin line that pipelines across it must share."""
    nodes = tuple(
        replace(node, site=f"site-{i % 2}") for i, node in enumerate(problem.cluster.nodes)
    )
    thin = LinkRate(bytes_per_s=float(10 ** rng.uniform(5, 8)), latency_s=0.02)
    links = (Link(between=("site-0", "site-1"), rate=thin),)
    return replace(problem, cluster=replace(problem.cluster, nodes=nodes, links=links))


def _one_node(problem: Problem, rng: Rng) -> Problem:
    devices = tuple(node.devices[0] for node in problem.cluster.nodes)
    nodes = (Node(id="only", devices=devices, price_per_hour=1.0),)
    return replace(problem, cluster=replace(problem.cluster, nodes=nodes, links=()))


def _one_device(problem: Problem, rng: Rng) -> Problem:
    nodes = (replace(problem.cluster.nodes[0], devices=("A100-40G",)),)
    return replace(problem, cluster=replace(problem.cluster, nodes=nodes, links=()))


def _too_small(problem: Problem, rng: Rng) -> Problem:
    """One node more, whose device holds no layer."""
    cluster = problem.cluster
    nodes = (Node(id="tiny", devices=("tiny",), site=cluster.nodes[0].site), *cluster.nodes)
    return replace(
        problem, cluster=replace(cluster, nodes=nodes, kinds={**CATALOGUE, "tiny": TINY})
    )


SORTS: dict[str, Callable[[Problem, Rng], Problem]] = {
    "plain": _plain,
    "money": _money,
    "cost": _cost,
    "on time": _on_time,
    "phases": _phases,
    "phases on time": _phases_on_time,
    "wide": _wide,
    "odd links": _odd_links,
    "slow line": _slow_line,
    "one node": _one_node,
    "one device": _one_device,
    "too small": _too_small,
}
