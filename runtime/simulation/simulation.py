"""One simulation: a cluster comes up, requests and faults come, and all of it is written down.

Of the requests a sample is checked token for token, and every one that went on after a loss.
"""

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from actors.kernel.virtual_time import run
from actors.messages import HandOffCounts
from runtime.simulation.client import Outcome, prompt_of, send
from runtime.simulation.cluster_file import Cluster
from runtime.simulation.faults import Fault
from runtime.simulation.load import Arrival
from runtime.simulation.mishaps import befall
from runtime.simulation.processes import ask_hand_offs
from runtime.simulation.quick_hash import is_right
from runtime.simulation.record import Record
from runtime.simulation.world import World, opened
from scheduling.pairing import SERVICE, RoutingPolicy

MAX_CHECKED = 400
"""Requests in the sample."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What is to be simulated; `is_live` lets time pass as it does, instead of jumping.

    `policy` picks the pipelines of each request; ones beside the service's own are for comparison.
    """

    cluster: Cluster
    arrivals: Sequence[Arrival]
    faults: Sequence[Fault] = ()
    seed: int = 0
    is_live: bool = False
    policy: RoutingPolicy = SERVICE


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """What happened, from the service being up to the last request's end; times are the loop's.

    `hand_offs` are those of the pipelines that were up at the end, their bytes a real model's.
    """

    start_s: float
    end_s: float
    outcomes: Sequence[Outcome]
    record: Record
    hand_offs: HandOffCounts = field(default_factory=HandOffCounts)


def simulate(job: Job, on_end: Callable[[Outcome], object] = lambda outcome: None) -> History:
    """Simulate from the service's start to the last request's end.

    Args:
        job: what.
        on_end: is called when a request has ended.

    Raises:
        LaunchFailed: the service did not come up, or ended.
    """

    async def main(rng: random.Random) -> History:
        return await _simulate(job, rng, on_end)

    if not job.is_live:
        return run(main, seed=job.seed)
    with asyncio.Runner() as runner:
        return runner.run(main(random.Random(job.seed)))


async def _simulate(job: Job, rng: random.Random, on_end: Callable[[Outcome], object]) -> History:
    loop = asyncio.get_running_loop()
    record = Record(job.arrivals[-1].at_s)
    outcomes = [Outcome(number=n, arrival=arrival) for n, arrival in enumerate(job.arrivals)]
    async with opened(job.cluster, record, rng, job.policy) as world:
        start_s = loop.time()
        async with asyncio.TaskGroup() as beside:
            mishaps = beside.create_task(befall(world, job.faults, start_s))
            async with asyncio.TaskGroup() as clients:
                for outcome in outcomes:
                    await asyncio.sleep(max(0.0, start_s + outcome.arrival.at_s - loop.time()))
                    clients.create_task(_client(world, job, outcome, on_end))
            mishaps.cancel()
        end_s = loop.time()
        assert world.plan is not None
        counts = await ask_hand_offs(world.gateway, world.plan)
    return History(start_s=start_s, end_s=end_s, outcomes=outcomes, record=record, hand_offs=counts)


async def _client(
    world: World, job: Job, outcome: Outcome, on_end: Callable[[Outcome], object]
) -> None:
    shape, timeout_s = job.cluster.shape, job.cluster.serving.token_timeout_s
    prompt = prompt_of(job.seed, outcome.number, outcome.arrival.num_prompt, shape.vocab)
    tokens = await send(world.router, outcome, prompt, timeout_s)
    every = -(-len(job.arrivals) // MAX_CHECKED)
    if tokens and (outcome.num_recoveries or outcome.number % every == 0):
        outcome.is_right = is_right(prompt, tokens, shape.num_layers, shape.vocab)
    on_end(outcome)
