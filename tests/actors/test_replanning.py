"""A better plan is recommended when nodes come and go, and taken by itself where that is wished."""

import asyncio
import json
import random
from collections import Counter
from collections.abc import Callable, Coroutine
from itertools import pairwise
from typing import Any

import pytest

from actors.kernel.virtual_time import run
from actors.messages import ChangePlan, DrainNode, PlanReport
from actors.operations import Operations
from actors.placement import ServiceSettings
from actors.replanning import Replanner
from scheduling.change_cost import AutoPolicy
from scheduling.errors import Infeasible
from scheduling.plan import Plan
from scheduling.roofline import ModelShape
from scheduling.workload import fixed
from tests.actors import emulated_service
from tests.actors.emulated_pipeline import NUM_LAYERS
from tests.actors.emulated_service import Service, service, settings

Scenario = Callable[[Service], Coroutine[Any, Any, None]]
SHAPE = ModelShape(
    num_layers=NUM_LAYERS,
    hidden=256,
    num_heads=4,
    num_kv_heads=4,
    head_dim=64,
    intermediate=1024,
    vocab=500,
    dtype_bytes=1,
)
AUTO = AutoPolicy(is_on=True, horizon_s=60, interval_s=30, min_gain=0.1)


def wanted(auto: AutoPolicy, **changes: Any) -> ServiceSettings:
    return settings(**{"num_stages": 1, "shape": SHAPE, "num_spares": 1, "auto": auto, **changes})


def simulate(scenario: Scenario, auto: AutoPolicy, *, seed: int = 0, **changes: Any) -> None:
    async def main(rng: random.Random) -> None:
        async with service(rng, wanted(auto, **changes)) as world:
            await world.start_node("a")
            await world.until(lambda world: world.is_ready)
            await scenario(world)

    run(main, seed=seed)


def nodes_used(world: Service) -> set[str]:
    assert world.router.plan is not None
    return {stage.node for p in world.router.plan.pipelines for stage in p.stages}


def epoch(world: Service) -> int:
    assert world.router.plan is not None
    return world.router.plan.epoch


async def recommended(world: Service, is_hoped: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """Wait until a recommendation is as it is hoped."""
    for _ in range(1200):
        if is_hoped(found := await world.recommendation()):
            return found
        await asyncio.sleep(0.1)
    raise AssertionError(f"the last recommendation was {found}")


def has_gain(found: dict[str, Any]) -> bool:
    return not found["is_stale"] and bool(found["gain"] and found["gain"] > 0.1)


@pytest.mark.parametrize("seed", range(3))
def test_a_node_that_joins_is_used_by_itself_and_no_token_differs(seed: int) -> None:
    async def scenario(world: Service) -> None:
        async with asyncio.TaskGroup() as group:
            running = group.create_task(world.generate_many(60))
            await asyncio.sleep(0.2)
            await world.start_node("b")
            await world.until(lambda world: nodes_used(world) == {"a", "b"})
        assert Counter(running.result()) == {"right": 60}
        assert Counter(await world.generate_many(8, "again")) == {"right": 8}

    simulate(scenario, AUTO, seed=seed)


def test_a_node_that_joins_is_measured_and_used_even_where_no_spares_are_kept() -> None:
    async def scenario(world: Service) -> None:
        await world.start_node("b")
        await world.until(lambda world: nodes_used(world) == {"a", "b"})

    simulate(scenario, AUTO, num_spares=0)


def test_a_node_that_joins_is_recommended_and_not_used_where_that_is_not_wished_for() -> None:
    async def scenario(world: Service) -> None:
        await world.start_node("b")
        found = await recommended(world, has_gain)
        used = {s["node"] for p in found["proposed"]["pipelines"] for s in p["stages"]}
        assert used == {"a", "b"}
        assert found["cost"]["load_bytes"] > 0
        assert "off" in found["state"]
        before = epoch(world)
        await asyncio.sleep(200)
        assert nodes_used(world) == {"a"}
        assert epoch(world) == before

    simulate(scenario, AutoPolicy())


def test_what_is_recommended_can_be_handed_in_as_it_is() -> None:
    async def scenario(world: Service) -> None:
        await world.start_node("b")
        found = await recommended(world, has_gain)
        plan = json.dumps(found["plan"]).encode()
        wish = ChangePlan(pipeline="", layers="", num_stages=0, plan=plan, is_dry_run=False)
        report = await world.ask(wish)
        assert (report.is_done, report.reason) == (True, "")
        assert nodes_used(world) == {"a", "b"}
        settled = await recommended(world, lambda found: not found["is_stale"])
        assert settled["gain"] == pytest.approx(0.0, abs=1e-6)

    simulate(scenario, AutoPolicy())


def test_a_node_that_was_lost_and_returns_is_used_again() -> None:
    async def scenario(world: Service) -> None:
        await world.start_node("b")
        await world.until(lambda world: nodes_used(world) == {"a", "b"})
        world.kill_node("b")
        await world.until(lambda world: nodes_used(world) == {"a"} and world.is_ready)
        await world.start_node("b")
        await world.until(lambda world: nodes_used(world) == {"a", "b"} and world.is_ready)
        assert Counter(await world.generate_many(8)) == {"right": 8}

    simulate(scenario, AUTO)


def test_a_node_that_comes_and_goes_is_taken_once_an_interval_at_most() -> None:
    async def scenario(world: Service) -> None:
        async with asyncio.TaskGroup() as group:
            running = group.create_task(world.generate_many(20))
            started, changes = asyncio.get_running_loop().time(), 0
            for _ in range(12):
                await world.start_node("b")
                was_used = False
                for _ in range(40):
                    await asyncio.sleep(0.2)
                    was_used = was_used or "b" in nodes_used(world)
                changes += was_used
                world.kill_node("b")
                await world.until(lambda world: nodes_used(world) == {"a"} and world.is_ready)
            took_s = asyncio.get_running_loop().time() - started
        assert 1 <= changes <= 1 + took_s // AUTO.interval_s
        assert changes < 12
        assert Counter(running.result()) == {"right": 20}

    simulate(scenario, AUTO)


def test_a_gain_below_the_least_does_nothing() -> None:
    async def scenario(world: Service) -> None:
        await world.start_node("b")
        found = await recommended(world, has_gain)
        assert "below the least" in found["state"]
        await asyncio.sleep(200)
        assert nodes_used(world) == {"a"}

    simulate(scenario, AutoPolicy(is_on=True, min_gain=100.0))


def test_a_change_that_does_not_pay_within_the_horizon_is_not_made() -> None:
    async def scenario(world: Service) -> None:
        await world.start_node("b")
        found = await recommended(world, has_gain)
        assert "would gain 0 tokens" in found["state"]
        await asyncio.sleep(200)
        assert nodes_used(world) == {"a"}

    simulate(scenario, AutoPolicy(is_on=True, horizon_s=0.0))


def test_nothing_is_changed_while_a_node_is_being_drained() -> None:
    async def scenario(world: Service) -> None:
        await world.start_node("b")
        await world.until(lambda world: world.router.plan.nodes == ("a", "b"))  # type: ignore[union-attr]
        async with asyncio.TaskGroup() as group:
            drained = group.create_task(world.ask(DrainNode(node="a", deadline_s=30)))
            await asyncio.sleep(0.01)
            assert (await world.recommendation())["state"].startswith("waiting: a change")
        assert drained.result().is_done
        assert nodes_used(world) == {"b"}

    simulate(scenario, AUTO)


def test_a_plan_that_cannot_be_reached_is_tried_ever_more_seldom(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tried: list[float] = []

    async def fail(operations: Operations, plan: Plan) -> PlanReport:
        tried.append(asyncio.get_running_loop().time())
        return PlanReport(is_done=False, reason="no", epoch=1, phases=(), moves=())

    monkeypatch.setattr(Operations, "go_over", fail)

    async def scenario(world: Service) -> None:
        await world.start_node("b")
        await asyncio.sleep(600)
        assert nodes_used(world) == {"a"}
        assert Counter(await world.generate_many(4)) == {"right": 4}

    simulate(scenario, AUTO)
    waits = [later - earlier for earlier, later in pairwise(tried)]
    assert len(waits) == 3
    assert all(wait >= 30 * 2**n for n, wait in enumerate(waits, start=1))


def test_a_service_whose_shape_is_not_known_says_so() -> None:
    async def scenario(world: Service) -> None:
        await asyncio.sleep(5)
        found = await world.recommendation()
        assert "shape is not known" in found["state"]
        assert found["proposed"] is None

    simulate(scenario, AutoPolicy(), shape=None)


@pytest.mark.parametrize(
    ("takes_s", "error", "told"),
    [
        (1000.0, None, "did not end within 60 s"),
        (0.1, ValueError("no numbers"), "the search failed: no numbers"),
        (0.1, Infeasible("it does not fit"), "the search failed: it does not fit"),
    ],
)
def test_a_search_that_fails_is_told_and_costs_the_service_nothing(
    monkeypatch: pytest.MonkeyPatch, takes_s: float, error: Exception | None, told: str
) -> None:
    async def compute(function: Callable[[], Any]) -> Any:
        await asyncio.sleep(takes_s)
        if error is not None:
            raise error
        return function()

    monkeypatch.setattr(emulated_service, "compute", compute)

    async def scenario(world: Service) -> None:
        await world.start_node("b")
        found = await recommended(world, lambda found: told in found["state"])
        assert (found["current"], found["proposed"], found["plan"]) == (None, None, None)
        assert nodes_used(world) == {"a"}
        assert Counter(await world.generate_many(4)) == {"right": 4}

    simulate(scenario, AUTO)


def test_a_cluster_that_changes_while_it_is_searched_is_searched_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    searches: list[float] = []

    async def compute(function: Callable[[], Any]) -> Any:
        searches.append(asyncio.get_running_loop().time())
        await asyncio.sleep(20)
        return function()

    monkeypatch.setattr(emulated_service, "compute", compute)

    async def scenario(world: Service) -> None:
        await world.until(lambda world: len(searches) == 1)
        await world.start_node("b")
        await world.until(lambda world: nodes_used(world) == {"a", "b"})
        assert len(searches) == 2

    simulate(scenario, AUTO)


def test_other_requests_are_planned_for_once_they_are_known_and_alike_ones_are_no_news(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    replanners: list[Replanner] = []
    searches: list[float] = []
    make = Replanner.__init__

    def noted(self: Replanner, *arguments: Any) -> None:
        make(self, *arguments)
        replanners.append(self)

    async def compute(function: Callable[[], Any]) -> Any:
        searches.append(asyncio.get_running_loop().time())
        await asyncio.sleep(0.1)
        return function()

    monkeypatch.setattr(Replanner, "__init__", noted)
    monkeypatch.setattr(emulated_service, "compute", compute)

    async def scenario(world: Service) -> None:
        before = await recommended(world, lambda found: not found["is_stale"])
        replanners[0].take_workload(fixed(1, 60))
        after = await recommended(world, lambda found: not found["is_stale"])
        assert after["current"]["tokens_per_s"] > before["current"]["tokens_per_s"]
        num_searches = len(searches)
        replanners[0].take_workload(fixed(1, 61))
        await asyncio.sleep(30)
        assert len(searches) == num_searches

    simulate(scenario, AutoPolicy())


def test_the_next_life_of_a_coordinator_goes_on_recommending() -> None:
    async def scenario(world: Service) -> None:
        await recommended(world, lambda found: not found["is_stale"])
        world.network.kill("coordinator")
        await world.start_coordinator()
        await world.start_node("b")
        await world.until(lambda world: nodes_used(world) == {"a", "b"})
        assert Counter(await world.generate_many(4)) == {"right": 4}

    simulate(scenario, AUTO)


def test_a_fixed_plan_is_not_looked_into_but_routers_know_how_fast_it_is() -> None:
    async def scenario(world: Service) -> None:
        await asyncio.sleep(5)
        found = await world.recommendation()
        assert found["state"] == "nothing is proposed: the plan is fixed"
        assert found["proposed"] is None
        assert not found["is_stale"]
        assert world.router.plan is not None
        assert all(status.times for status in world.router.plan.pipelines)

    simulate(scenario, AutoPolicy(), is_fixed=True)
