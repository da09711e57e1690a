import asyncio
import random

import msgspec
import pytest

from actors.kernel.virtual_time import run
from actors.messages import Cancel, StageFailed, StageReady, StepInput
from tests.actors.emulated_pipeline import assignment, opened, request


def test_a_stage_tells_its_observer_how_far_it_has_loaded() -> None:
    async def scenario(rng: random.Random) -> None:
        async with opened(rng) as world:
            await world.client.until(lambda client: len(client.progress) == 4)
            assert {(p.stage, p.num_bytes, p.total_bytes) for p in world.client.progress} == {
                (0, 50, 100),
                (0, 100, 100),
                (1, 50, 100),
                (1, 100, 100),
            }

    run(scenario, seed=0)


def test_a_new_epoch_of_the_same_layers_loads_nothing_and_other_layers_do() -> None:
    async def scenario(rng: random.Random) -> None:
        async with opened(rng) as world:
            stage, device = world.stage_refs[0], world.devices[0]
            same = assignment(0, (0, 3), world.pipeline, world.client_ref)
            newer = msgspec.structs.replace(same, epoch=2)
            ready = await world.head.ask(stage, newer, timeout_s=60)
            assert isinstance(ready, StageReady)
            assert (ready.epoch, device.num_loads) == (2, 1)
            other = msgspec.structs.replace(newer, end=4, epoch=3)
            ready = await world.head.ask(stage, other, timeout_s=60)
            assert isinstance(ready, StageReady)
            assert (ready.epoch, device.num_loads) == (3, 2)

    run(scenario, seed=0)


def test_a_stage_that_cannot_load_says_why_and_holds_nothing() -> None:
    async def scenario(rng: random.Random) -> None:
        async with opened(rng) as world:
            stage = world.stage_refs[0]
            wanted = assignment(0, (0, 3), world.pipeline, world.client_ref)
            failed = await world.head.ask(
                stage, msgspec.structs.replace(wanted, model="missing"), timeout_s=60
            )
            assert isinstance(failed, StageFailed)
            assert "no such folder" in failed.reason
            world.generate(request("r", [1], 1))
            await world.client.until(lambda client: client.num_ended == 1)
            assert "took longer" in world.client.failed["r"][0].reason
            assert world.stages[0].num_stale_steps == 1

    run(scenario, seed=0)


@pytest.mark.parametrize("epoch", [0, 2])
def test_a_step_of_another_epoch_is_dropped(epoch: int) -> None:
    async def scenario(rng: random.Random) -> None:
        async with opened(rng) as world:
            world.head.tell(world.stage_refs[0], StepInput(epoch=epoch, step=1, batch=b""))
            world.generate(request("r", [1, 2], 3))
            await world.client.until(lambda client: client.num_ended == 1)
            world.assert_right("r")
            assert world.stages[0].num_stale_steps == 1

    run(scenario, seed=0)


def test_a_step_that_is_no_batch_ends_the_stage_and_its_pipeline_says_so() -> None:
    async def scenario(rng: random.Random) -> None:
        async with opened(rng) as world:
            world.generate(request("r", [1, 2], 40))
            world.head.tell(world.stage_refs[1], StepInput(epoch=1, step=1, batch=b"garbage"))
            await world.client.until(lambda client: client.num_ended == 1 and bool(client.lost))
            assert "stage 1 of pipeline p0 was lost (error)" in world.client.failed["r"][0].reason

    run(scenario, seed=0)


def test_a_message_that_is_not_for_stages_harms_nobody() -> None:
    async def scenario(rng: random.Random) -> None:
        async with opened(rng) as world:
            world.head.tell(world.stage_refs[0], Cancel(request="x"))
            world.head.tell(world.pipeline, assignment(0, (0, 1), world.pipeline, world.pipeline))
            world.generate(request("r", [1, 2], 3))
            await world.client.until(lambda client: client.num_ended == 1)
            world.assert_right("r")

    run(scenario, seed=0)


def test_a_stage_holds_a_bounded_number_of_steps_and_loses_none_beyond() -> None:
    async def scenario(rng: random.Random) -> None:
        async with opened(rng) as world:
            stale = StepInput(epoch=7, step=1, batch=b"")
            for _ in range(100):
                world.head.tell(world.stage_refs[0], stale)
            await asyncio.sleep(1)
            assert world.stages[0].num_stale_steps == 100

    run(scenario, seed=0)
