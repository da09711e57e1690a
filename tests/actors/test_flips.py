"""Pipelines change phases under their requests: at once, kept by the journal, or refused."""

import asyncio
import json
from collections import Counter
from typing import Any

import pytest

from actors.messages import ChangePlan, FlipPhases, PlanReport, RouteStatus
from models.emulated import expected_tokens
from tests.actors.emulated_pipeline import NUM_LAYERS, VOCAB, request
from tests.actors.emulated_service import Service
from tests.actors.test_hand_off import actor_of, counts, is_at_rest, simulate, wanted


async def flip(world: Service, phases: dict[str, str], *, dry: bool = False) -> PlanReport:
    """Flip pipelines, as an operator would."""
    pairs = tuple(phases.items())
    return await world.ask(FlipPhases(phases=pairs, is_dry_run=dry), timeout_s=5)


def served(world: Service) -> dict[str, str]:
    plan = world.router.plan
    assert plan is not None
    return {status.pipeline: status.serves for status in plan.pipelines}


async def change(world: Service, plan: dict[str, Any], pipeline: str = "") -> PlanReport:
    packed = json.dumps(plan).encode()
    wish = ChangePlan(pipeline=pipeline, layers="", num_stages=0, plan=packed, is_dry_run=False)
    return await world.ask(wish)


def test_phases_change_at_once_without_touching_a_stage_and_new_requests_follow_them() -> None:
    async def scenario(world: Service) -> None:
        epochs = [actor_of(world, p)._ring.epoch for p in "01"]
        loads = [worker.device.num_loads for worker in world.workers]
        async with asyncio.TaskGroup() as group:
            running = group.create_task(world.generate_many(12))
            await world.until(lambda _: counts(world).num_done > 1)
            report = await flip(world, {"0": "decode", "1": "prefill"})
            assert (report.is_done, report.reason) == (True, "")
            assert report.moves == (
                "pipeline 0 serves decode instead of prefill",
                "pipeline 1 serves prefill instead of decode",
            )
            await world.until(lambda world: served(world) == {"0": "decode", "1": "prefill"})
            later = group.create_task(world.generate_many(12, "later"))
        assert Counter(running.result() + later.result()) == {"right": 24}
        assert counts(world, "1").num_done > 1
        assert world.notes == []
        assert [actor_of(world, p)._ring.epoch for p in "01"] == epochs
        assert [worker.device.num_loads for worker in world.workers] == loads
        await world.until(is_at_rest)

    simulate(scenario, wanted())


def test_requests_that_decode_where_prompts_alone_are_served_now_go_on_elsewhere() -> None:
    async def scenario(world: Service) -> None:
        prompts = [[world.rng.randrange(VOCAB) for _ in range(20)] for _ in range(4)]
        streams = [world.router.open(request(f"r{i}", p, 150)) for i, p in enumerate(prompts)]
        await world.until(lambda _: all(len(stream.delivered) > 9 for stream in streams))
        assert {stream.pipeline for stream in streams} == {"1"}
        assert (await flip(world, {"0": "decode", "1": "prefill"})).is_done
        await world.until(lambda _: {stream.pipeline for stream in streams} == {"0"})
        assert all(len(stream.delivered) < 150 for stream in streams)
        assert actor_of(world, "1")._ring.batcher.sequences == ()
        for stream in streams:
            await world.read_all(stream)
        for prompt, stream in zip(prompts, streams, strict=True):
            right = expected_tokens(prompt, 150, NUM_LAYERS, vocab_size=VOCAB)
            assert stream.delivered == right
        assert counts(world, "1").num_done == len(streams)
        await world.until(is_at_rest)

    simulate(scenario, wanted(max_model_len=200, num_blocks=300))


@pytest.mark.parametrize(
    ("phases", "told"),
    [
        ({"1": "prefill"}, "expected a pipeline that serves decode or both"),
        ({"0": "decode"}, "expected a pipeline that serves prefill or both"),
        ({"7": "both"}, "pipeline '7': expected one of: 0, 1"),
        ({"0": "all"}, "expected a phase of both, prefill, decode, got 'all'"),
    ],
)
def test_a_flip_that_leaves_requests_unserved_or_names_nothing_is_refused(
    phases: dict[str, str], told: str
) -> None:
    async def scenario(world: Service) -> None:
        report = await flip(world, phases)
        assert not report.is_done
        assert told in report.reason
        assert served(world) == {"0": "prefill", "1": "decode"}

    simulate(scenario, wanted())


def test_a_dry_run_says_what_would_change_and_changes_nothing() -> None:
    async def scenario(world: Service) -> None:
        before = (await world.present_plan())["epoch"]
        report = await flip(world, {"0": "both"}, dry=True)
        assert report.moves == ("pipeline 0 serves both instead of prefill",)
        assert served(world) == {"0": "prefill", "1": "decode"}
        assert (await flip(world, {"0": "prefill"})).moves == ()
        assert (await world.present_plan())["epoch"] == before

    simulate(scenario, wanted())


def test_phases_and_routes_outlive_the_coordinator_and_a_change_of_stages() -> None:
    async def scenario(world: Service) -> None:
        route = RouteStatus(prefill="1", decode="0", weight=3.0)
        wish = FlipPhases(phases=(("0", "decode"), ("1", "prefill")), routes=(route,))
        assert (await world.ask(wish)).is_done
        before = await world.present_plan()
        assert before["routes"] == [{"prefill": "1", "decode": "0", "weight": 3.0}]
        world.network.kill("coordinator")
        await asyncio.sleep(1)
        await world.start_coordinator()
        await world.until(lambda world: world.is_ready)
        assert (await world.present_plan())["routes"] == before["routes"]
        swap = ChangePlan(pipeline="0", layers="0:2,2:6", num_stages=0, plan=b"", is_dry_run=False)
        async with asyncio.timeout(60):
            while not (await world.ask(swap)).is_done:  # noqa: ASYNC110  it looks around first
                await asyncio.sleep(0.1)
        found = await world.present_plan()
        assert [p["phase"] for p in found["pipelines"]] == ["decode", "prefill"]
        world.living("b/stage-1.0").die()
        await asyncio.sleep(1)
        await world.until(lambda world: world.is_ready)
        assert served(world) == {"0": "decode", "1": "prefill"}
        assert (await flip(world, {"1": "both"})).is_done
        assert (await world.present_plan())["routes"] == []

    simulate(scenario, wanted())


def test_a_whole_plan_brings_its_phases_and_one_pipelines_stages_leave_them() -> None:
    async def scenario(world: Service) -> None:
        plan = await world.present_plan()
        plan["pipelines"][0]["phase"], plan["pipelines"][1]["phase"] = "decode", "prefill"
        report = await change(world, plan)
        assert report.is_done, report.reason
        assert report.moves == (
            "pipeline 0 serves decode instead of prefill",
            "pipeline 1 serves prefill instead of decode",
        )
        await world.until(lambda world: served(world) == {"0": "decode", "1": "prefill"})
        other = {**plan["pipelines"][0], "phase": "both"}
        refused = await change(world, other, "0")
        assert "change it by `ctl flip 0 both`" in refused.reason

    simulate(scenario, wanted())


@pytest.mark.parametrize("seed", range(3))
def test_no_token_differs_while_phases_keep_changing_under_load(seed: int) -> None:
    async def scenario(world: Service) -> None:
        ways = ({"0": "decode", "1": "prefill"}, {"0": "prefill", "1": "decode"})
        others = ({"0": "both", "1": "both"}, {"0": "both", "1": "decode"})
        async with asyncio.TaskGroup() as group:
            running = group.create_task(world.generate_many(40))
            for number in range(12):
                await asyncio.sleep(world.rng.uniform(0, 0.1))
                kinds = ways if number % 3 else others
                assert (await flip(world, world.rng.choice(kinds))).is_done
        assert Counter(running.result()) == {"right": 40}
        assert world.notes == []
        await world.until(is_at_rest)

    simulate(scenario, wanted(), seed=seed)
