"""Phases follow what comes: once, with their reasons, and no request is dropped for it."""

import asyncio
import random
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import replace
from typing import Any

import pytest

from actors import phase_following, replanning
from actors.coordinator import CoordinatorActor
from actors.kernel.virtual_time import run
from actors.messages import FlipPhases, WorkerUp, WorkloadSeen
from actors.phase_following import NO_SHAPE, NO_TARGETS, transport_of
from actors.phase_question import Found
from actors.placement import ServiceSettings, StageWish
from actors.rephasing import Rephaser, Rephasing, workload_seen
from actors.workload_telling import TELL_S
from scheduling.change_cost import AutoPolicy
from scheduling.goal import Goal
from scheduling.kv_transport import KvLayout
from scheduling.live import Advice
from scheduling.model_profile import known_model
from scheduling.phases.profiler import Tally
from scheduling.workload import Workload, synthetic
from tests.actors import emulated_service
from tests.actors.emulated_pipeline import NUM_LAYERS, request
from tests.actors.emulated_service import Service, service, settings

Scenario = Callable[[Service], Coroutine[Any, Any, None]]
SHAPE = replace(known_model("llama-8b"), num_layers=NUM_LAYERS)
PART = NUM_LAYERS / 32
"""What of the whole model's time its layers here take."""
TARGETS = Goal(measure="slo", ttft_s=1.0 * PART, tpot_s=0.03 * PART)
RATES = {"a": (290e12, 690e9), "b": (250e12, 1240e9)}
"""One device with much arithmetic, one with much bandwidth."""
CODE, CONVERSATION = synthetic("code"), synthetic("conversation")
RATE = 11.5 / PART


@pytest.fixture(autouse=True)
def uneven_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers measure what GPUs reach, and only phases are searched for."""

    def worker_up(**told: Any) -> WorkerUp:
        flops, num_bytes = RATES[told["worker"].partition("/")[0]]
        measured = {"flops_per_s": flops, "bytes_per_s": num_bytes, "layer_overhead_s": 30e-6}
        return WorkerUp(**{**told, **measured, "device": "gpu:0", "memory_bytes": 10**10})

    def nothing(situation: Any) -> Advice:
        return Advice(current=None, proposed=None, reason="not looked for")

    monkeypatch.setattr(emulated_service, "WorkerUp", worker_up)
    monkeypatch.setattr(replanning, "search", nothing)


def wanted(*, is_on: bool = True, **changes: Any) -> ServiceSettings:
    usual = {
        "pipelines": tuple((StageWish(node=node, device="gpu:0"),) for node in "ab"),
        "num_stages": 0,
        "wait_nodes": ("a", "b"),
        "num_blocks": 80,
        "max_running": 256,
        "max_step_tokens": 2048,
        "max_model_len": 8192,
        "block_tokens": 16,
        "shape": SHAPE,
        "targets": TARGETS,
        "auto": AutoPolicy(is_on=is_on),
    }
    return settings(**{**usual, **changes})


def simulate(scenario: Scenario, service_of: ServiceSettings, *, seed: int = 0) -> None:
    async def main(rng: random.Random) -> None:
        async with service(rng, service_of) as world:
            for node in "ab":
                await world.start_node(node, ("gpu:0",))
            await world.until(lambda world: world.is_ready)
            await scenario(world)

    run(main, seed=seed)


def news(load: Workload, rate: float, *, num: int, seed: int = 1) -> Iterator[WorkloadSeen]:
    """What a router tells of so many seconds of Poisson arrivals of a load."""
    rng, at_s = random.Random(seed), 0.0
    tally = Tally(0.0)
    for second in range(1, num + 1):
        while (at_s := at_s + rng.expovariate(rate)) < second:
            tally.arrived(at_s)
            pick = rng.randrange(len(load.prompts))
            tally.finished(load.prompts[pick], load.outputs[pick])
        yield workload_seen("played", tally.take(float(second)))


async def comes(world: Service, load: Workload, rate: float, *, num: int, seed: int = 1) -> None:
    """Tell the coordinator of a load, second by second."""
    for message in news(load, rate, num=num, seed=seed):
        world.gateway.tell(world.coordinator, message)
        await asyncio.sleep(1.0)


def phases(world: Service) -> dict[str, str]:
    assert world.router.plan is not None
    return {status.pipeline: status.serves for status in world.router.plan.pipelines}


async def told(world: Service) -> dict[str, Any]:
    found: dict[str, Any] = (await world.recommendation())["phases"]
    return found


TOGETHER, APART = {"0": "both", "1": "both"}, {"0": "prefill", "1": "decode"}


def test_when_code_becomes_conversation_phases_flip_once_and_a_request_under_way_goes_on() -> None:
    async def scenario(world: Service) -> None:
        async with asyncio.TaskGroup() as under_way:
            long = under_way.create_task(world.generate("long", [1, 2, 3] * 20, 900))
            await comes(world, CODE, 4.0, num=40)
            assert phases(world) == TOGETHER
            assert (await told(world))["num_flips"] == 0
            await comes(world, CONVERSATION, RATE, num=30, seed=2)
            assert phases(world) == APART
            await comes(world, CONVERSATION, RATE, num=30, seed=3)
            assert phases(world) == APART
        assert long.result() == "right"
        found = await told(world)
        assert (found["num_flips"], found["phases"]) == (1, APART)
        assert found["last_shift"]["stream"] in ("prompt", "output", "gap")
        assert world.router.plan is not None
        weights = [(r.prefill, r.decode) for r in world.router.plan.routes if r.weight]
        assert weights == [("0", "1")]
        assert await world.generate_many(6) == ["right"] * 6

    simulate(scenario, wanted())


def test_where_auto_is_off_phases_are_recommended_with_gain_and_cost_and_stay() -> None:
    async def scenario(world: Service) -> None:
        await comes(world, CONVERSATION, RATE, num=30)
        assert phases(world) == TOGETHER
        found = await told(world)
        assert found["state"] == "recommended; cluster.auto is off"
        proposed = found["proposed"]
        assert (proposed["phases"], proposed["flips"]) == (APART, 2)
        assert proposed["is_due"]
        assert proposed["attainment"] > proposed["attainment_now"]
        assert "staying has lost the" in proposed["reason"]
        assert found["phases"] == TOGETHER
        assert (await world.ask(FlipPhases(phases=tuple(APART.items())))).is_done
        await comes(world, CONVERSATION, RATE, num=6, seed=2)
        found = await told(world)
        assert found["phases"] == found["proposed"]["phases"] == APART
        assert found["state"] == "no better phases were found"

    simulate(scenario, wanted(is_on=False))


def test_when_all_that_decode_are_lost_those_that_are_left_serve_both() -> None:
    async def scenario(world: Service) -> None:
        await comes(world, CONVERSATION, RATE / 8, num=8)
        assert phases(world) == APART
        world.kill_node("b")
        await comes(world, CONVERSATION, RATE / 8, num=16, seed=2)
        assert phases(world)["0"] == "both"
        assert (await told(world))["num_flips"] == 1
        assert await world.generate("after", [1, 2, 3], 20) == "right"

    simulate(scenario, wanted(phases=("prefill", "decode")))


def test_an_answer_about_pipelines_that_are_others_by_now_is_not_followed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answers: list[Found] = []
    judged: list[Found] = []
    decide = Rephaser.decide

    def noted(rephaser: Rephaser, found: Found, at_s: float) -> Rephasing | None:
        judged.append(found)
        return decide(rephaser, found, at_s)

    monkeypatch.setattr(Rephaser, "decide", noted)

    class Slow(Service):
        def make_coordinator(self) -> CoordinatorActor:
            return CoordinatorActor(self._wanted, self.store, compute=self.compute)

        async def compute(self, function: Callable[[], Any]) -> Any:
            found = await emulated_service.compute(function)
            if isinstance(found, Found):
                answers.append(found)
                flip = FlipPhases(phases=(("0", "decode"), ("1", "prefill")))
                await self.ask(flip)
            return found

    async def main(rng: random.Random) -> None:
        async with asyncio.TaskGroup() as tasks:
            world = Slow(rng, tasks, wanted())
            await world.open()
            for node in "ab":
                await world.start_node(node, ("gpu:0",))
            await world.until(lambda world: world.is_ready)
            await comes(world, CONVERSATION, RATE, num=4)
            assert phases(world) == {"0": "decode", "1": "prefill"}
            assert len(answers) == 2
            assert judged == answers[1:]
            world.end_all()

    run(main, seed=0)


def test_phases_that_are_not_chosen_in_time_are_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def scenario(world: Service) -> None:
        await comes(world, CONVERSATION, RATE, num=16)
        assert (await told(world))["state"] == "recommended; cluster.auto is off"
        monkeypatch.setattr(phase_following, "ANSWER_TIMEOUT_S", 0.01)
        await comes(world, CONVERSATION, RATE, num=8, seed=2)
        found = await told(world)
        assert found["state"] == "phases were not chosen within 0.01 s"
        assert found["proposed"] is None
        assert phases(world) == TOGETHER

    simulate(scenario, wanted(is_on=False))


@pytest.mark.parametrize(
    ("changes", "state"), [({"targets": None}, NO_TARGETS), ({"shape": None}, NO_SHAPE)]
)
def test_without_targets_or_shape_nothing_is_told_and_the_report_says_why(
    changes: dict[str, Any], state: str
) -> None:
    async def scenario(world: Service) -> None:
        assert await world.generate_many(4) == ["right"] * 4
        await comes(world, CONVERSATION, RATE, num=8)
        found = await told(world)
        assert (found["state"], found["proposed"]) == (state, None)
        assert not world.router._teller._is_wanted

    simulate(scenario, wanted(**changes))


@pytest.mark.parametrize(
    ("asked", "ratio"), [("none", 1.0), ("auto", 1.0), ("int8", 0.59375), ("int4", 0.34375)]
)
def test_hand_offs_are_forecast_in_the_encoding_that_is_asked_for(asked: Any, ratio: float) -> None:
    layout = KvLayout(block_tokens=16, head_dim=128, itemsize=2)
    found = transport_of(wanted(kv_transport=asked, kv_layout=layout))
    assert (found.ratio, found.overlaps) == (ratio, True)
    assert transport_of(wanted(kv_transport=asked)).ratio == 1.0


def test_what_requests_wait_for_between_their_pipelines_is_told() -> None:
    async def scenario(world: Service) -> None:
        async with asyncio.TaskGroup() as load:
            for number in range(64):
                load.create_task(world.generate(f"r{number}", [number] * 40, 4))
        await asyncio.sleep(2 * TELL_S)
        assert (await told(world))["observed"]["decode_queue_s"] > 0

    simulate(scenario, wanted(phases=("prefill", "decode"), num_blocks=400))


def test_routers_tell_what_came_and_the_planner_hears_of_it_and_then_they_are_silent() -> None:
    async def scenario(world: Service) -> None:
        assert await world.generate_many(70) == ["right"] * 70
        await asyncio.sleep(3 * TELL_S)
        found = await told(world)
        assert found["observed"]["num_finished"] == 70
        assert 1 <= found["observed"]["mean_prompt"] <= 20
        assert not world.router._teller._is_due
        stream = world.router.open(request("one", [1, 2], 3))
        assert world.router._teller._is_due
        await world.read_all(stream)

    simulate(scenario, wanted())
