import asyncio
import random
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from actors.kernel.virtual_time import run
from actors.messages import Cancel, GetPipelineLoad, PipelineLoadReport, StepOutput
from tests.actors.emulated_pipeline import World, opened, request

Scenario = Callable[[World, random.Random], Coroutine[Any, Any, None]]


def simulate(scenario: Scenario, *, num_stages: int = 2, seed: int = 0, **how: int) -> None:
    async def main(rng: random.Random) -> None:
        async with opened(rng, num_stages, **how) as world:
            await scenario(world, rng)

    run(main, seed=seed)


async def load(world: World) -> PipelineLoadReport:
    report = await world.head.ask(world.pipeline, GetPipelineLoad(), timeout_s=5)
    assert isinstance(report, PipelineLoadReport)
    return report


def send_many(world: World, rng: random.Random, count: int) -> list[str]:
    names = [f"r{i}" for i in range(count)]
    for name in names:
        prompt = [rng.randrange(500) for _ in range(rng.randint(1, 30))]
        temperature = rng.choice([0.0, 0.8])
        max_tokens, seed = rng.randint(1, 15), rng.randrange(1 << 32)
        world.generate(request(name, prompt, max_tokens, temperature=temperature, seed=seed))
    return names


@pytest.mark.parametrize("num_stages", [1, 2, 3])
@pytest.mark.parametrize("seed", range(5))
def test_every_stream_is_exact_though_blocks_run_out_and_steps_interleave(
    num_stages: int, seed: int
) -> None:
    async def scenario(world: World, rng: random.Random) -> None:
        names = send_many(world, rng, 24)
        await world.client.until(lambda client: client.num_ended == 24)
        for name in names:
            world.assert_right(name)
            assert world.client.finished[name] == "length"
        report = await load(world)
        assert report.num_preemptions > 0, "the scenario is meant to run out of blocks"
        assert report.num_free_blocks == report.num_blocks

    simulate(scenario, num_stages=num_stages, seed=seed)


def test_a_step_costs_one_message_more_than_there_are_stages() -> None:
    async def scenario(world: World, rng: random.Random) -> None:
        world.generate(request("r", [1, 2, 3], 10))
        await world.client.until(lambda client: client.num_ended == 1)
        assert (await load(world)).num_steps == 10
        assert [device.num_runs for device in world.devices] == [11, 11, 11]  # and one load each

    simulate(scenario, num_stages=3)


def test_a_stop_token_ends_a_stream_and_is_not_delivered() -> None:
    async def scenario(world: World, rng: random.Random) -> None:
        world.generate(request("free", [5, 6], 8))
        await world.client.until(lambda client: client.num_ended == 1)
        free = world.client.tokens["free"]
        world.generate(request("stopped", [5, 6], 8, stop_token_ids=(free[4],)))
        await world.client.until(lambda client: client.num_ended == 2)
        assert world.client.tokens["stopped"] == free[: free.index(free[4])]
        assert world.client.finished["stopped"] == "stop"

    simulate(scenario)


def test_a_cancelled_request_frees_its_blocks_and_says_no_more() -> None:
    async def scenario(world: World, rng: random.Random) -> None:
        world.generate(request("long", [1] * 20, 25))
        world.generate(request("kept", [2] * 5, 5))
        await world.client.until(lambda client: len(client.tokens.get("long", [])) > 2)
        world.head.tell(world.pipeline, Cancel(request="long"), sender=world.client_ref)
        await world.client.until(lambda client: "kept" in client.finished)
        world.assert_right("kept")
        await asyncio.sleep(1)
        report = await load(world)
        assert report.num_free_blocks == report.num_blocks
        assert report.num_running == report.num_waiting == 0
        assert len(world.client.tokens["long"]) < 25
        assert "long" not in world.client.finished

    simulate(scenario)


def test_to_cancel_what_is_unknown_changes_nothing() -> None:
    async def scenario(world: World, rng: random.Random) -> None:
        world.head.tell(world.pipeline, Cancel(request="ghost"), sender=world.client_ref)
        world.generate(request("r", [1, 2], 4))
        await world.client.until(lambda client: client.num_ended == 1)
        world.assert_right("r")

    simulate(scenario)


@pytest.mark.parametrize(
    ("prompt", "other", "kind", "reason"),
    [
        ([1] * 48, {}, "rejected", "48"),
        ([1, 2], {"epoch": 2}, "stale_epoch", "sent for epoch 2, the pipeline is at 1"),
    ],
)
def test_what_cannot_be_served_is_refused_with_a_reason(
    prompt: list[int], other: dict[str, object], kind: str, reason: str
) -> None:
    async def scenario(world: World, rng: random.Random) -> None:
        world.generate(request("r", prompt, 10, **other))
        await world.client.until(lambda client: client.num_ended == 1)
        (failed,) = world.client.failed["r"]
        assert failed.kind == kind
        assert reason in failed.reason

    simulate(scenario)


def test_a_full_queue_refuses_the_newest_and_serves_the_others() -> None:
    async def scenario(world: World, rng: random.Random) -> None:
        names = send_many(world, rng, 30)
        await world.client.until(lambda client: client.num_ended == 30)
        assert world.client.failed
        for name in names:
            if name in world.client.failed:
                assert [failed.kind for failed in world.client.failed[name]] == ["queue_full"]
            else:
                world.assert_right(name)

    simulate(scenario, max_waiting=4)


@pytest.mark.parametrize("stage", [0, 1, 2])
def test_the_loss_of_any_stage_is_told_to_every_waiting_client_and_the_coordinator(
    stage: int,
) -> None:
    async def scenario(world: World, rng: random.Random) -> None:
        names = send_many(world, rng, 10)
        await world.client.until(lambda client: bool(client.tokens))
        world.network.lose(f"stage{stage}")
        await world.client.until(lambda client: client.num_ended == 10 and bool(client.lost))
        for name in names:
            if name in world.client.finished:
                world.assert_right(name)
            else:
                (failed,) = world.client.failed[name]
                assert failed.kind == "stage_lost"
                assert f"stage {stage} of pipeline p0 was lost" in failed.reason
        assert [lost.pipeline for lost in world.client.lost] == ["p0"]

    simulate(scenario, num_stages=3)


def test_a_hung_stage_is_noticed_by_its_overdue_step() -> None:
    async def scenario(world: World, rng: random.Random) -> None:
        world.devices[1].hangs = True
        world.generate(request("r", [1, 2], 4))
        await world.client.until(lambda client: client.num_ended == 1 and bool(client.lost))
        (failed,) = world.client.failed["r"]
        assert "took longer than 4 s" in failed.reason

    simulate(scenario)


def test_an_idle_pipeline_is_never_overdue() -> None:
    async def scenario(world: World, rng: random.Random) -> None:
        await asyncio.sleep(100)
        world.generate(request("r", [1, 2], 4))
        await world.client.until(lambda client: client.num_ended == 1)
        world.assert_right("r")

    simulate(scenario)


def test_outputs_of_another_epoch_or_of_no_step_in_flight_are_dropped() -> None:
    async def scenario(world: World, rng: random.Random) -> None:
        token = (7).to_bytes(4, "little")
        for epoch, step in ((2, 0), (1, 12345)):
            world.head.tell(world.pipeline, StepOutput(epoch=epoch, step=step, token_ids=token))
        world.generate(request("r", [1, 2], 4))
        await world.client.until(lambda client: client.num_ended == 1)
        world.assert_right("r")

    simulate(scenario)


def trace(seed: int) -> list[tuple[float, str, tuple[int, ...]]]:
    """When each token came, in a run in which a stage is lost."""
    events: list[tuple[float, str, tuple[int, ...]]] = []

    async def scenario(world: World, rng: random.Random) -> None:
        names = send_many(world, rng, 12)
        loop = asyncio.get_running_loop()
        while world.client.num_ended < 12:
            world.client.news.clear()
            await world.client.news.wait()
            had = world.client.tokens
            events.extend((loop.time(), name, tuple(had.get(name, ()))) for name in names)
            if len(events) > 200:
                world.network.lose("stage1")

    simulate(scenario, seed=seed)
    return events


def test_one_seed_gives_one_trace_and_another_seed_another() -> None:
    first = trace(3)
    assert len(first) > 200
    assert trace(3) == first
    assert trace(4) != first
