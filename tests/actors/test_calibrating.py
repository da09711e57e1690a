"""A coordinator learns from the steps of its stages what their devices reach, and plans with it."""

import asyncio
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest

from actors import calibrating
from actors.calibrating import INTERVAL_S
from actors.cluster import Cluster
from actors.messages import StageSteps
from actors.step_report import MeasuredStages
from scheduling.change_cost import AutoPolicy
from scheduling.roofline import StageTime, StepWork
from scheduling.split import StageDevice
from tests.actors.emulated_service import Service
from tests.actors.test_replanning import SHAPE, recommended, simulate

SLOW = StageDevice(
    memory_bytes=0,
    flops_per_s=1e11,  # a tenth of what emulated workers tell
    bytes_per_s=1e8,
    layer_overhead_s=1e-4,
    step_overhead_s=1e-3,
)


def steps_on(device: StageDevice, layers: tuple[int, int], scale: float = 1.0) -> Iterator[Any]:
    for tokens in (1, 4, 16, 64, 256, 1024, 4096):
        work = StepWork(num_tokens=tokens, num_pairs=tokens, num_context=64, num_drawn=1)
        yield (tokens, tokens, 64, 1, StageTime(device, SHAPE, layers).of(work) * scale)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Stages tell steps of a slow device; when they were asked is noted."""
    times: list[float] = []

    async def told(cluster: Cluster) -> MeasuredStages:
        times.append(cluster.context.loop_time())
        stages = [s for record in cluster.pipelines.values() for s in record.plan.stages]
        return tuple(
            (
                stage,
                StageSteps(
                    start=stage.start,
                    end=stage.end,
                    steps=tuple(steps_on(SLOW, (stage.start, stage.end))),
                    tokens_per_s=None,
                ),
            )
            for stage in stages
        )

    monkeypatch.setattr(calibrating, "measured_stages", told)
    return times


def test_forecasts_are_by_the_rates_that_steps_told_once_they_did(asked: list[float]) -> None:
    async def scenario(world: Service) -> None:
        before = await recommended(world, lambda found: not found["is_stale"])
        assert [rate["source"] for rate in before["rates"]] == ["datasheet"]
        after = await recommended(
            world,
            lambda found: not found["is_stale"] and found["rates"][0]["source"] == "calibrated",
        )
        (rate,) = after["rates"]
        assert rate["error"] < 0.01
        assert after["current"]["tokens_per_s"] < before["current"]["tokens_per_s"] / 5
        await asyncio.sleep(3 * INTERVAL_S)
        last = await world.recommendation()
        assert last["current"] == after["current"]  # the same steps again are no news

    simulate(scenario, AutoPolicy())
    assert all(later - earlier > 0.99 * INTERVAL_S for earlier, later in pairwise(asked))
    assert len(asked) >= 3


def test_a_service_whose_shape_is_not_known_asks_no_stage(asked: list[float]) -> None:
    async def scenario(world: Service) -> None:
        await asyncio.sleep(3 * INTERVAL_S)

    simulate(scenario, AutoPolicy(), shape=None)
    assert asked == []


def test_routers_are_told_of_times_and_again_when_rates_are_learnt(asked: list[float]) -> None:
    def told(world: Service) -> float:
        assert world.router.plan is not None
        [status] = world.router.plan.pipelines
        assert status.times is not None
        return status.times.decode[0]

    async def scenario(world: Service) -> None:
        await recommended(world, lambda found: not found["is_stale"])
        promised = told(world)
        assert not asked
        await asyncio.sleep(INTERVAL_S + 2)
        assert asked
        assert told(world) > 2 * promised

    simulate(scenario, AutoPolicy())
