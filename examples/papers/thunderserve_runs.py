"""One simulation of a ThunderServe set-up: what it is of, as data, and what came of it.

The one idea: a run is a value. Equal runs give equal times, so that whoever asks for one that was
had already is given what came of it, and any process may do it. Latencies are judged afterwards: a
run knows no targets.
"""

import random
from collections.abc import Iterator
from typing import Literal

import msgspec

from examples.papers.thunderserve_scenarios import (
    LIMITS,
    MODEL,
    Scenario,
    equal_pipelines,
    replicas,
    requests_like,
    two_machines,
    with_phases,
)
from runtime.config import PlannerSettings
from runtime.simulation.cluster_file import (
    Cluster,
    DeviceFile,
    LinkFile,
    ModelFile,
    NodeFile,
    ServingFile,
)
from runtime.simulation.load import Arrival
from runtime.simulation.planned import with_placement
from runtime.simulation.routing_policies import policy_of
from runtime.simulation.simulation import Job, simulate
from runtime.simulation.times import RequestTimes, times_of
from scheduling.cluster import Cluster as Facts
from scheduling.kv_transport import Encoding
from scheduling.phases.bound import Phases
from scheduling.placement import Placement

MANY, LONG_S = 1 << 16, 86400.0
"""Nobody is turned away for a queue's length, and nobody gives up."""
FAR_APART_S = 1000.0
AT_ONCE = 0.0


class Setting(msgspec.Struct, frozen=True, kw_only=True):
    """A cluster with its pipelines and its kind of requests.

    Attributes:
        kind: of the requests.
        cluster: the paper's two machines, or equal pipelines.
        line: between the two machines.
        num: of equal pipelines.
        flops: by which the reached arithmetic is multiplied, on the two machines.
        num_bytes: by which the reached bandwidth is.
    """

    kind: str
    cluster: Literal["machines", "equal"] = "machines"
    line: str = "40 Gbps"
    num: int = 6
    flops: float = 1.0
    num_bytes: float = 1.0

    def made(self) -> tuple[Scenario, Placement]:
        """The cluster with its requests, and where its pipelines stand."""
        if self.cluster == "equal":
            return equal_pipelines(self.kind, self.num)
        found = two_machines(self.kind, self.line, flops=self.flops, num_bytes=self.num_bytes)
        return found, replicas()


class Then(msgspec.Struct, frozen=True, kw_only=True):
    """What comes after half of the requests, at another rate, and the latencies to keep; seconds.

    With none of those, phases stay; else the service chooses them anew.
    """

    kind: str
    rate: float
    ttft_s: float = 0.0
    tpot_s: float = 0.0


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """One simulation.

    Attributes:
        setting: what is simulated.
        phases: of each pipeline.
        kv: how KV entries travel between pipelines.
        routing: who picks pipelines, by `runtime.simulation.routing_policies`.
        rate: requests a second; 0 has all come at once.
        num_requests: how many.
        seed: of arrivals and lengths.
        then: other requests in the second half, if there are any.
        is_alone: instead of all that, a request of mean length for each pipeline, long after the
            one before.
    """

    setting: Setting
    phases: Phases
    kv: Encoding = "none"
    routing: str = "predicted"
    rate: float = AT_ONCE
    num_requests: int = 200
    seed: int = 0
    then: Then | None = None
    is_alone: bool = False


class Flip(msgspec.Struct, frozen=True, kw_only=True):
    """A pipeline told what it serves from then on; seconds since the service was up."""

    at_s: float
    told: str


class Served(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a run: each request's times, its hand-offs, and flips, if there were any.

    Bringing the service up, weights and all, took `up_s` seconds.
    """

    times: tuple[RequestTimes, ...]
    num_handed_off: int
    num_stayed: int
    up_s: float = 0.0
    flips: tuple[Flip, ...] = ()

    @property
    def tokens_per_s(self) -> float:
        """Tokens of prompts and answers, from the first arrival to the last token."""
        done = [(each, each.e2e_s) for each in self.times if each.e2e_s is not None]
        ended_s = max((each.at_s + e2e_s for each, e2e_s in done), default=0.0)
        num_tokens = sum(each.num_prompt + each.num_tokens for each, _ in done)
        return num_tokens / (ended_s - self.times[0].at_s) if done else 0.0


def served(run: Run) -> Served:
    """Simulate a run.

    Raises:
        RuntimeError: a request got a wrong token, or did not come to its end.
    """
    scenario, placement = run.setting.made()
    cluster = simulated(scenario, with_phases(placement, run.phases), run.kv)
    if run.then is not None:
        targets = PlannerSettings(ttft_s=run.then.ttft_s, tpot_s=run.then.tpot_s)
        cluster = msgspec.structs.replace(cluster, planner=targets)
    policy = policy_of("round-robin" if run.is_alone else run.routing, run.seed)
    arrivals = list(_each_alone(scenario, len(run.phases)) if run.is_alone else _many(run))
    history = simulate(Job(cluster=cluster, arrivals=arrivals, seed=run.seed, policy=policy))
    for outcome in history.outcomes:
        if not outcome.is_done or not outcome.is_whole or outcome.is_right is False:
            raise RuntimeError(f"{run}: request {outcome.number} ended {outcome.ended!r}, or wrong")
    return Served(
        times=tuple(times_of(history.outcomes)),
        num_handed_off=history.hand_offs.num_done,
        num_stayed=history.hand_offs.num_stayed,
        up_s=history.start_s,
        flips=tuple(
            Flip(at_s=mark.at_s - history.start_s, told=mark.text)
            for mark in history.record.marks
            if mark.kind == "plan" and mark.at_s > history.start_s
        ),
    )


def simulated(scenario: Scenario, placement: Placement, kv: Encoding = "none") -> Cluster:
    """A scenario as the simulator takes it, with these pipelines."""
    facts = scenario.cluster
    cluster = Cluster(
        model=ModelFile(name=MODEL),
        nodes=tuple(NodeFile(id=n.id, devices=n.devices, site=n.site) for n in facts.nodes),
        devices=dict(_devices(facts)),
        links=tuple(_links(facts)),
        serving=ServingFile(
            max_running=LIMITS.max_running,
            max_step_tokens=LIMITS.max_step_tokens,
            max_model_len=LIMITS.max_model_len,
            block_tokens=LIMITS.block_tokens,
            memory_fraction=LIMITS.memory_fraction,
            max_waiting=MANY,
            max_held=MANY,
            token_timeout_s=LONG_S,
            kv_transport=kv,
        ),
    )
    return with_placement(cluster, placement)


def _devices(facts: Facts) -> Iterator[tuple[str, DeviceFile]]:
    for name in sorted({kind for node in facts.nodes for kind in node.devices}):
        rates = facts.kinds[name].rates
        yield (
            name,
            DeviceFile(
                memory_bytes=rates.memory_bytes,
                flops_per_s=rates.flops_per_s,
                bytes_per_s=rates.bytes_per_s,
                layer_overhead_s=rates.layer_overhead_s,
                step_overhead_s=rates.step_overhead_s,
            ),
        )


def _links(facts: Facts) -> Iterator[LinkFile]:
    """Between two machines there is one line, as the planner counts."""
    for link in facts.links:
        yield LinkFile(
            between=link.between,
            bytes_per_s=link.rate.bytes_per_s,
            latency_s=link.rate.latency_s,
            shared=len(set(link.between)) == 2,
        )


def _many(run: Run) -> Iterator[Arrival]:
    """Poisson arrivals, lengths of prompt and answer drawn together."""
    load, rate = requests_like(run.setting.kind), run.rate
    rng, at_s = random.Random(run.seed), 0.0
    for number in range(run.num_requests):
        if run.then is not None and number == run.num_requests // 2:
            load, rate = requests_like(run.then.kind), run.then.rate
        at_s += rng.expovariate(rate) if rate else 0.0
        pick = rng.randrange(len(load.prompts))
        yield Arrival(at_s, load.prompts[pick], load.outputs[pick])


def _each_alone(scenario: Scenario, number: int) -> Iterator[Arrival]:
    load = scenario.workload
    for turn in range(number):
        length = round(load.mean_prompt), max(2, round(load.mean_output))
        yield Arrival(turn * FAR_APART_S, *length)
