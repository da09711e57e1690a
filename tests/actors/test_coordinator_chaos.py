"""Whatever is lost in whatever order, a service comes back or says why not; one seed, one trace."""

import asyncio
import random

from hypothesis import given, settings
from hypothesis import strategies as st

from actors.kernel.virtual_time import run
from actors.placement import StageWish
from tests.support.actor_worlds import Cluster, World, cluster_of, play, play_with, settle

WORKERS = ("a/stage-0.0", "b/stage-0.1", "b/stage-1.0")
PIPELINES = ((StageWish(node="a"), StageWish(node="b")), (StageWish(node="b"),))

blows = st.tuples(
    st.sampled_from(("end", "silence", "lose node", "lose pipeline", "obey")),
    st.sampled_from(WORKERS),
    st.sampled_from((0.0, 0.02, 7.0)),
)


async def strike(cluster: Cluster, blow: str, worker: str) -> None:
    """Do one thing to a cluster, if it can be done now."""
    node = worker.split("/")[0]
    if node not in cluster.nodes:
        await cluster.join(node)
    elif blow == "end" and worker in cluster.workers:
        cluster.end(worker)
    elif blow == "silence" and worker in cluster.workers:
        cluster.silence(worker)
    elif blow == "lose node":
        cluster.lose_node(node)
    elif blow == "lose pipeline" and cluster.nodes:
        cluster.lose_pipeline("0", cluster.status.epoch)
    elif blow == "obey":
        await cluster.obey()


async def recover(cluster: Cluster) -> None:
    """Bring back what is gone and do what is wanted, for as long as that changes anything."""
    for _ in range(10):
        for name in ("a", "b"):
            if name not in cluster.nodes:
                await cluster.join(name)
        await settle(10)
        await cluster.obey()
        await settle(10)


@settings(max_examples=60, deadline=None)
@given(st.lists(blows, max_size=12))
def test_a_service_comes_back_from_anything_or_says_why_it_does_not(
    struck: list[tuple[str, str, float]],
) -> None:
    async def scenario(world: World) -> None:
        cluster = await cluster_of(world, pipelines=PIPELINES, num_nodes=2)
        await cluster.serve("a", "b")
        epochs = [cluster.status.epoch]
        for blow, worker, pause_s in struck:
            await strike(cluster, blow, worker)
            await asyncio.sleep(pause_s)
            epochs.append(cluster.status.epoch)
        await recover(cluster)
        plan = cluster.status
        assert plan.failure or all(p.state == "ready" for p in plan.pipelines), plan
        assert plan.failure or not plan.missing
        assert epochs == sorted(epochs)
        assert len({p.ref for p in plan.pipelines}) == 2 or plan.failure

    play(scenario)


# --- one seed, one trace


async def trace_of(rng: random.Random) -> list[str]:
    """All that launcher and nodes hear, and when, while a stage is lost on a wire with delays."""

    async def scenario(world: World) -> list[str]:
        world.network.delay = lambda: rng.uniform(0.001, 0.2)
        cluster = await cluster_of(world, pipelines=PIPELINES, num_nodes=2)
        before = await cluster.serve("a", "b")
        await asyncio.sleep(rng.random())
        cluster.end(rng.choice(WORKERS))
        await settle(2)
        await cluster.obey()
        await cluster.ready(before.epoch + 1)
        return [
            f"{when:.9f} {message}"
            for played in (cluster.launcher, *cluster.nodes.values())
            for when, message in zip(played.heard_at, played.heard, strict=True)
        ]

    return await play_with(rng, scenario)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**32))
def test_one_seed_gives_one_trace_of_a_lost_stage(seed: int) -> None:
    assert run(trace_of, seed=seed) == run(trace_of, seed=seed)


def test_different_seeds_give_different_traces() -> None:
    assert len({str(run(trace_of, seed=seed)) for seed in range(5)}) == 5
