"""What ThunderServe was tried on, as data: clusters, requests, and where pipelines stand.

Apart from any method: whoever serves phases, by estimate or by the real actors, takes these. Of the
paper (arXiv 2502.09334) are the 4 A40 and 4 3090Ti, the model, the two kinds of requests and the
two speeds of the line; the equal pipelines and the pool of 32 are ours, since their make-up is not
in what we could see.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from scheduling.cluster import Cluster, Link, Node
from scheduling.cluster_toml import parse_cluster
from scheduling.goal import Goal, Limits
from scheduling.hardware import DeviceKind
from scheduling.model_profile import known_model
from scheduling.placement import Group, PlacedPipeline, Placement, chain
from scheduling.roofline import LinkRate
from scheduling.solvers.interface import Problem
from scheduling.workload import Workload, synthetic

CLUSTERS = Path(__file__).resolve().parents[1] / "clusters"
MODEL = "llama-30b"
LIMITS = Limits(max_tp=4, max_model_len=8192, max_step_tokens=2048, disaggregate=True)
KINDS = ("conversation", "code")
GBPS = {"40 Gbps": 5e9, "5 Gbps": 0.625e9}


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """A cluster with requests.

    Attributes:
        name: as it is printed.
        cluster: nodes, links and kinds.
        workload: lengths; their rate where one is fixed.
    """

    name: str
    cluster: Cluster
    workload: Workload

    def problem(self, goal: Goal | None = None, *, rate: float | None = None) -> Problem:
        """The planner's problem, for a goal and a rate of requests."""
        workload = self.workload if rate is None else replace(self.workload, rate=rate)
        return Problem(
            cluster=self.cluster,
            shape=known_model(MODEL),
            workload=workload,
            goal=goal or Goal(),
            limits=LIMITS,
        )


def requests_like(kind: str) -> Workload:
    """Lengths of the Azure trace of that name, cut where prompt and answer exceed the model's."""
    load = synthetic(kind)
    most = LIMITS.max_model_len
    outputs = [min(output, most // 4) for output in load.outputs]
    prompts = [min(p, most - o) for p, o in zip(load.prompts, outputs, strict=True)]
    return replace(load, prompts=tuple(prompts), outputs=tuple(outputs))


def two_machines(kind: str, line: str, *, flops: float = 1.0, num_bytes: float = 1.0) -> Scenario:
    """4 A40 and 4 3090Ti over a fast or a slow line; efficiencies scaled for a sweep."""
    read = parse_cluster((CLUSTERS / "thunderserve.toml").read_text(encoding="utf-8")).cluster
    links = tuple(
        replace(link, rate=replace(link.rate, bytes_per_s=GBPS[line]))
        if len(set(link.between)) == 2
        else link
        for link in read.links
    )
    cluster = replace(read, links=links, kinds=_scaled(read, flops, num_bytes))
    return Scenario(name=f"{kind}, {line}", cluster=cluster, workload=requests_like(kind))


def equal_pipelines(kind: str, num: int) -> tuple[Scenario, Placement]:
    """So many pipelines of 4 A40 in TP, each a machine, 40 Gbit/s between every two of them."""
    nodes = tuple(Node(id=f"n{k}", devices=("A40",) * 4) for k in range(num))
    inside = [
        Link(between=(n.id, n.id), rate=LinkRate(bytes_per_s=20e9, latency_s=20e-6)) for n in nodes
    ]
    between = Link(
        between=("site", "site"), rate=LinkRate(bytes_per_s=GBPS["40 Gbps"], latency_s=200e-6)
    )
    cluster = Cluster(nodes=nodes, links=(*inside, between))
    scenario = Scenario(name=f"{kind}, {num} equal", cluster=cluster, workload=requests_like(kind))
    return scenario, Placement(tuple(_one_stage(node.id, 0, 4) for node in nodes))


def replicas() -> Placement:
    """A pipeline of every two A40 and one of all 3090Ti, each in TP: the fewest that hold it."""
    return Placement((_one_stage("a40", 0, 2), _one_stage("a40", 2, 4), _one_stage("ti", 0, 4)))


def _one_stage(node: str, start: int, end: int) -> PlacedPipeline:
    """A pipeline of one stage, on some devices of a node."""
    return chain([Group(node, tuple(range(start, end)))], [known_model(MODEL).num_layers])


def pool_of_32(kind: str) -> Scenario:
    """32 GPUs of four kinds on eight machines at two sites, 5 Gbit/s between the sites."""
    kinds = ("A40", "3090Ti", "A6000", "A5000")
    nodes = tuple(
        Node(id=f"{name}-{site}", devices=(name,) * 4, site=site)
        for name in kinds
        for site in ("east", "west")
    )
    inside = [
        Link(between=(n.id, n.id), rate=LinkRate(bytes_per_s=20e9, latency_s=20e-6)) for n in nodes
    ]
    far = LinkRate(bytes_per_s=GBPS["5 Gbps"], latency_s=0.002)
    near = LinkRate(bytes_per_s=GBPS["40 Gbps"], latency_s=200e-6)
    links = (
        *inside,
        Link(between=("east", "east"), rate=near),
        Link(between=("west", "west"), rate=near),
        Link(between=("east", "west"), rate=far),
    )
    cluster = Cluster(nodes=nodes, links=links)
    return Scenario(name=f"{kind}, 32 GPUs", cluster=cluster, workload=requests_like(kind))


def with_phases(placement: Placement, phases: tuple[str, ...]) -> Placement:
    """The same pipelines with other phases."""
    return Placement(
        tuple(
            PlacedPipeline(pipeline.stages, phase)  # type: ignore[arg-type]
            for pipeline, phase in zip(placement.pipelines, phases, strict=True)
        )
    )


def means(workload: Workload) -> str:
    """Mean lengths, as they are printed."""
    prompts, outputs = np.asarray(workload.prompts), np.asarray(workload.outputs)
    return f"{prompts.mean():.0f} prompt and {outputs.mean():.1f} output tokens"


def _scaled(cluster: Cluster, flops: float, num_bytes: float) -> dict[str, DeviceKind]:
    return {
        name: kind.scaled(flops=flops, num_bytes=num_bytes) for name, kind in cluster.kinds.items()
    }
