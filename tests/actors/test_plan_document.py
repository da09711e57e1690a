"""Plans of the planner's command are taken where their devices are here, else refused."""

import asyncio
import json
import random
from collections import Counter
from typing import Any

import pytest

from actors.kernel.virtual_time import run
from actors.messages import ChangePlan, PlanReport
from models.demo import demo_path
from scheduling.change_cost import AutoPolicy
from tests.actors.emulated_service import Service, service
from tests.actors.test_replanning import nodes_used, wanted

Stage = tuple[str, str, int, int]


def document(*pipelines: tuple[Stage, ...], phase: str = "both", **changes: Any) -> dict[str, Any]:
    """What `python -m scheduling.plan --json` writes, as far as a service reads it."""
    return {
        "epoch": 0,
        "model": "demo",
        "pipelines": [
            {
                "id": str(number),
                "stages": [
                    {
                        "stage": order,
                        "node": node,
                        "worker": f"{node}/stage-{number}.{order}",
                        "device": device,
                        "start": start,
                        "end": end,
                    }
                    for order, (node, device, start, end) in enumerate(stages)
                ],
                "num_blocks": 7,
                "block_tokens": 4,
            }
            for number, stages in enumerate(pipelines)
        ],
        "forecast": {"pipelines": [{"phase": phase} for _ in pipelines]},
    } | changes


async def swap(world: Service, plan: dict[str, Any], *, is_dry_run: bool = False) -> PlanReport:
    return await world.ask(
        ChangePlan(
            pipeline="",
            layers="",
            num_stages=0,
            plan=json.dumps(plan).encode(),
            is_dry_run=is_dry_run,
        )
    )


def simulate(scenario: Any) -> None:
    async def main(rng: random.Random) -> None:
        async with service(rng, wanted(AutoPolicy())) as world:
            await world.start_node("a")
            await world.until(lambda world: world.is_ready)
            await world.start_node("b")
            await world.until(lambda world: any(w.name.startswith("b/") for w in world.workers))
            await asyncio.sleep(1)
            await scenario(world)

    run(main, seed=0)


@pytest.mark.parametrize(
    "pipelines",
    [
        ((("b", "cpu", 0, 2), ("a", "cpu", 2, 6)),),
        ((("b", "cpu", 0, 6),), (("a", "cpu", 0, 6),)),
        ((("a", "cpu", 0, 3), ("a", "cpu", 3, 6)), (("b", "cpu", 0, 6),)),
    ],
)
def test_a_plan_whose_devices_are_here_is_gone_over_to_and_no_token_differs(
    pipelines: tuple[tuple[Stage, ...], ...],
) -> None:
    async def scenario(world: Service) -> None:
        async with asyncio.TaskGroup() as group:
            running = group.create_task(world.generate_many(12))
            await asyncio.sleep(0.2)
            report = await swap(world, document(*pipelines))
        assert (report.is_done, report.reason) == (True, "")
        assert Counter(running.result()) == {"right": 12}
        served = await world.present_plan()
        places = {
            tuple((s["node"], s["device"], s["start"], s["end"]) for s in p["stages"])
            for p in served["pipelines"]
        }
        assert places == set(pipelines)
        assert all(p["num_blocks"] > 7 for p in served["pipelines"])

    simulate(scenario)


def test_a_plan_that_is_told_back_with_what_is_predicted_moves_nothing() -> None:
    async def scenario(world: Service) -> None:
        served = await world.present_plan()
        report = await swap(world, {**served, "planner": {"gain": None}})
        assert (report.is_done, report.moves) == (True, ())

    simulate(scenario)


WHOLE = (("b", "cpu", 0, 6),)


@pytest.mark.parametrize(
    ("plan", "told"),
    [
        (
            document(WHOLE, model="llama-8b"),
            "model 'demo', got one for 'llama-8b'",
        ),
        (document(WHOLE, phase="prefill"), "expected a pipeline that serves decode or both"),
        (document((("c", "cpu", 0, 6),)), "on node 'c'; here are: a, b"),
        (document((("b", "cuda:0", 0, 6),)), "node b has no device 'cuda:0'; it has: cpu"),
        (document((("b", "cpu+cpu", 0, 6),)), "plan with --max-tp 1"),
        (document((("b", "cpu", 0, 5),)), "expected layers 0:6, got 0:5"),
        (document(WHOLE, surprise=1), "expected the keys"),
    ],
)
def test_a_plan_that_cannot_be_served_is_refused_with_what_would_do(
    plan: dict[str, Any], told: str
) -> None:
    async def scenario(world: Service) -> None:
        for is_dry_run in (True, False):
            report = await swap(world, plan, is_dry_run=is_dry_run)
            assert not report.is_done
            assert told in report.reason
        assert nodes_used(world) == {"a"}

    simulate(scenario)


def test_blocks_of_another_size_are_refused() -> None:
    async def scenario(world: Service) -> None:
        plan = document(WHOLE)
        plan["pipelines"][0]["block_tokens"] = 16
        report = await swap(world, plan)
        assert "plan with serving.block_tokens = 4" in report.reason

    simulate(scenario)


@pytest.mark.parametrize(
    "named", ["demo", "models/demo", "/models/demo/config.json", str(demo_path())]
)
def test_a_model_may_be_named_by_its_folder_as_the_planner_was_given_it(named: str) -> None:
    async def scenario(world: Service) -> None:
        report = await swap(world, document(WHOLE, model=named), is_dry_run=True)
        assert (report.is_done, report.reason) == (True, "")
        assert report.moves

    simulate(scenario)
