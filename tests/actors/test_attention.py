"""Whoever was away itself takes nobody for lost: the rule, and what each decider makes of it."""

import asyncio
import math
import random
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.attention import Attention, Excuses
from actors.kernel.virtual_time import run
from actors.membership import ABSENCE_S, ANEW_S, LOOK_S, Presence
from actors.messages import AreYouThere, GetPipelineStages, OpenPipeline, PipelineStages, StopWorker
from actors.stage import StageActor
from tests.actors.emulated_pipeline import EmulatedDevice
from tests.actors.emulated_service import EmulatedWorker, Service, settings
from tests.actors.members import ref
from tests.support.actor_worlds import Cluster, World, cluster_of, on_virtual_time, settle

AWAY_S = 1.5
"""Well beyond the silence after which processes take each other for lost."""
GAPS = st.lists(st.floats(0.01, 10.0), max_size=12)


# --- the rule


@given(GAPS, st.floats(0.0, 10.0))
def test_a_decider_was_away_if_its_timer_was_late_and_that_is_not_long_over(
    gaps: list[float], since: float
) -> None:
    now, presence, woke = 0.0, Presence(looked_at=0.0), -math.inf
    for gap in gaps:
        now += gap
        presence = presence.look(now)
        woke = now if now - (now - gap) >= ABSENCE_S else woke
    asked = now + since
    if asked - now >= ABSENCE_S:  # it is away now, and its timer has not fired yet
        woke = asked
    assert presence.woke_at(asked) == (woke if asked - woke < ANEW_S else None)


def test_a_timer_that_fires_in_time_tells_of_no_absence() -> None:
    presence = Presence(looked_at=5.0)
    for tick in range(100):
        presence = presence.look(5.0 + (tick + 1) * LOOK_S)
    assert presence.woke_at(25.1) is None


def virtually(scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    run(lambda rng: scenario(), seed=0)


def test_nobody_is_excused_twice_for_one_absence_and_nobody_without_one() -> None:
    async def scenario() -> None:
        attention = Attention()
        excuses = Excuses(attention)
        assert not excuses.excuse(ref("a")), "nobody looks at the clock: it never was away"
        attention.look()
        assert not excuses.excuse(ref("a"))
        for _ in range(2):
            await asyncio.sleep(3.0)
            attention.look()
            assert excuses.was_away
            assert [excuses.excuse(ref(name)) for name in ("a", "b", "a")] == [True, True, False]
            for _ in range(20):
                await asyncio.sleep(LOOK_S)
                attention.look()
            assert not excuses.was_away
            assert not excuses.excuse(ref("a"))

    virtually(scenario)


def test_a_process_that_looks_at_the_clock_all_the_time_was_never_away() -> None:
    async def scenario() -> None:
        attention = Attention()
        with attention.kept():
            for _ in range(50):
                await asyncio.sleep(0.17)
                assert attention.woke_at is None
        await asyncio.sleep(ABSENCE_S)
        assert attention.woke_at is not None

    virtually(scenario)


# --- what deciders make of it


class Absences(Service):
    """A service whose processes can be away: nobody hears of them, and their clocks stand."""

    def make_stage(self, device: EmulatedDevice) -> StageActor:
        return StageActor(device, attention=self.attentions["stage"])

    async def be_away(self, process: str, attention: str) -> None:
        """Cut a process off for a while; at its wake it finds its connections broken."""
        self.attentions[attention].look()
        others = [
            *(name for name in self.systems if name != process),
            *(w.address for w in self.workers if w.is_alive and w.address != process),
        ]
        for other in others:
            self.network.partition(process, other)
        await asyncio.sleep(AWAY_S)
        for other in others:
            self.network.heal(process, other)
        self.attentions[attention].look()


Scenario = Callable[[Absences], Coroutine[Any, Any, None]]


def simulate(scenario: Scenario, seed: int) -> None:
    async def main(rng: random.Random) -> None:
        async with asyncio.TaskGroup() as tasks:
            world = Absences(rng, tasks, settings())
            await world.open()
            await world.start_node("local")
            await world.until(lambda world: world.is_ready)
            await scenario(world)
            world.end_all()

    run(main, seed=seed)


async def outlives(world: Absences, process: str, attention: str) -> None:
    """Requests run on through an absence, and every worker lives on in the life it had."""
    before: list[EmulatedWorker] = list(world.workers)
    async with asyncio.TaskGroup() as group:
        running = group.create_task(world.generate_many(12))
        await asyncio.sleep(0.1)
        await world.be_away(process, attention)
    assert Counter(running.result()) == {"right": 12}
    await asyncio.sleep(10.0)
    await world.until(lambda world: world.is_ready)
    assert [worker.is_alive for worker in before] == [True] * len(before)
    assert Counter(await world.generate_many(6, "after")) == {"right": 6}


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("process", ["coordinator", "node-local"])
def test_a_process_that_was_away_ends_no_healthy_worker_and_loses_no_token(
    process: str, seed: int
) -> None:
    simulate(lambda world: outlives(world, process, process), seed)


@pytest.mark.parametrize("seed", range(4))
def test_a_stage_that_was_away_does_not_take_its_successor_for_lost(seed: int) -> None:
    async def scenario(world: Absences) -> None:
        first, second = world.living("local/stage-0.0"), world.living("local/stage-0.1")
        async with asyncio.TaskGroup() as group:
            running = group.create_task(world.generate_many(12))
            await asyncio.sleep(0.1)
            await world.be_away(first.address, "stage")
        assert Counter(running.result()) == {"right": 12}
        assert second.is_alive

    simulate(scenario, seed)


@pytest.mark.parametrize("seed", range(2))
def test_a_node_that_dies_while_the_coordinator_is_away_is_lost_all_the_same(seed: int) -> None:
    async def scenario(world: Absences) -> None:
        await world.start_node("other")
        world.attentions["coordinator"].look()
        await asyncio.sleep(AWAY_S)
        world.kill_node("local")
        world.attentions["coordinator"].look()
        await world.until(lambda w: w.router.plan is not None and w.router.plan.nodes == ("other",))
        await world.start_node("local")
        await world.until(lambda world: world.is_ready)
        assert Counter(await world.generate_many(6)) == {"right": 6}

    simulate(scenario, seed)


@pytest.mark.parametrize("seed", range(2))
def test_a_stage_that_dies_while_its_pipelines_process_is_away_is_replaced(seed: int) -> None:
    async def scenario(world: Absences) -> None:
        async with asyncio.TaskGroup() as group:
            running = group.create_task(world.generate_many(12))
            await asyncio.sleep(0.1)
            world.attentions["node-local"].look()
            await asyncio.sleep(AWAY_S)
            world.living("local/stage-0.1").die()
            world.attentions["node-local"].look()
        assert Counter(running.result()) == {"right": 12}

    simulate(scenario, seed)


# --- the coordinator, among others whose parts are played


async def away(cluster: Cluster) -> None:
    """Let the coordinator's clock stand for a while; it has just woken up."""
    cluster.attention.look()
    await settle(AWAY_S)
    cluster.attention.look()


async def serving(world: World) -> Cluster:
    cluster = await cluster_of(world, num_stages=2)
    await cluster.serve("a")
    return cluster


@pytest.mark.parametrize("was_away", [True, False])
@on_virtual_time
async def test_a_worker_whose_connection_broke_is_ended_unless_the_coordinator_was_away(
    world: World, was_away: bool
) -> None:
    cluster = await serving(world)
    if was_away:
        await away(cluster)
    cluster.part(cluster.workers["a/stage-0.1"])
    await settle(10.0)
    stops = [stop.worker for stop in cluster.nodes["a"].all_of(StopWorker)]
    assert stops == ([] if was_away else ["a/stage-0.1"])
    if was_away:  # it is watched again: the next loss counts
        cluster.attention.look()
        cluster.part(cluster.workers["a/stage-0.1"])
        await settle(10.0)
        assert cluster.nodes["a"].all_of(StopWorker) != []


def serves(cluster: Cluster) -> PipelineStages:
    """A pipeline's word that it goes on over the stages that it was opened with."""
    (opened,) = cluster.nodes["a"].all_of(OpenPipeline)
    return PipelineStages(
        pipeline="0", epoch=opened.epoch, stages=opened.stages, num_blocks=opened.num_blocks
    )


@on_virtual_time
async def test_a_node_and_a_pipeline_that_answer_are_kept_by_a_coordinator_that_was_away(
    world: World,
) -> None:
    cluster = await serving(world)
    await away(cluster)
    cluster.part(cluster.nodes["a"])
    cluster.homes["0"].answers[GetPipelineStages] = lambda _: serves(cluster)
    await settle(10.0)
    assert cluster.status.nodes == ("a",)
    assert len(cluster.nodes["a"].all_of(OpenPipeline)) == 1
    assert len(cluster.nodes["a"].all_of(AreYouThere)) == 1


@on_virtual_time
async def test_a_pipeline_that_does_not_answer_a_coordinator_that_was_away_is_opened_again(
    world: World,
) -> None:
    cluster = await serving(world)
    cluster.homes["0"].postponed[GetPipelineStages] = []
    await away(cluster)
    cluster.part(cluster.nodes["a"])  # its process has the pipeline's actor as well
    await settle(20.0)
    assert len(cluster.nodes["a"].all_of(OpenPipeline)) == 2


@on_virtual_time
async def test_a_node_that_does_not_answer_a_coordinator_that_was_away_is_lost(
    world: World,
) -> None:
    cluster = await serving(world)
    await away(cluster)
    cluster.lose_node("a")
    plan = await cluster.learns(lambda plan: plan.nodes == ())
    assert plan.missing
