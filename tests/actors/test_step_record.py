"""What a stage's steps took is kept, bounded, and told when asked."""

import asyncio
import random
from typing import Any

import numpy as np
import pytest

from actors.kernel.virtual_time import run
from actors.messages import GetSteps, StageSteps, StepsDocument
from actors.step_record import MAX_STEPS, WINDOW_S, StepRecord, timed
from actors.step_report import mean_step_s, total_tokens_per_s
from models.forward_batch import ForwardBatch
from scheduling.change_cost import AutoPolicy
from scheduling.plan import NodeId, PipelineId, PipelinePlan, StagePlan, WorkerId
from tests.actors.emulated_service import service
from tests.actors.test_replanning import wanted


def batch(starts: list[int], lengths: list[int]) -> ForwardBatch:
    count = len(starts)
    return ForwardBatch(
        token_ids=np.zeros(sum(lengths), np.int32),
        starts=np.asarray(starts, np.int32),
        lengths=np.asarray(lengths, np.int32),
        block_tables=np.zeros((count, 8), np.int32),
        samples=np.ones(count, np.bool_),
        suppress_eos=np.zeros(count, np.bool_),
        seeds=np.zeros(count, np.uint64),
        temperatures=np.zeros(count, np.float32),
        top_ps=np.ones(count, np.float32),
        min_ps=np.zeros(count, np.float32),
        top_ks=np.zeros(count, np.int32),
    )


def test_a_step_is_kept_with_what_it_asked() -> None:
    record = StepRecord()
    record.add((0, 3), batch([0, 10], [4, 1]), 0.5, now=1.0)
    (step,) = record.of((0, 3))
    assert (step.work.num_tokens, step.work.num_context, step.work.num_drawn) == (5, 15, 2)
    assert step.work.num_pairs == 4 * 5 // 2 + 11
    assert record.of((0, 4)) == ()


def test_the_record_is_bounded_and_what_took_no_time_is_not_kept() -> None:
    record = StepRecord()
    record.add((0, 3), batch([0], [1]), 0.0, now=1.0)
    assert record.of((0, 3)) == ()
    for number in range(2 * MAX_STEPS):
        record.add((0, 3), batch([0], [1]), 0.1, now=float(number))
    kept = record.of((0, 3))
    assert len(kept) == MAX_STEPS
    assert kept[-1].at == 2 * MAX_STEPS - 1


def test_tokens_a_second_are_those_of_late() -> None:
    record = StepRecord()
    assert record.tokens_per_s((0, 3), 0.0) is None
    for number in range(11):
        record.add((0, 3), batch([3, 4], [1, 1]), 0.1, now=number / 2)
    assert record.tokens_per_s((0, 3), 5.0) == pytest.approx(4.0)
    assert record.tokens_per_s((0, 3), 6.0 + WINDOW_S) is None


def test_a_function_is_timed_by_the_clock_that_is_handed_in() -> None:
    ticks = iter([1.0, 3.5])
    assert timed(lambda: "done", lambda: next(ticks))() == ("done", 2.5)


def planned(start: int, end: int, *, node: str = "a") -> StagePlan:
    return StagePlan(
        stage=0,
        node=NodeId(node),
        worker=WorkerId(f"{node}/{start}"),
        device="cpu",
        start=start,
        end=end,
    )


def told(start: int, end: int, seconds: list[float], rate: float | None) -> StageSteps:
    steps: Any = tuple((1, 1, 1, 1, s) for s in seconds)
    return StageSteps(start=start, end=end, steps=steps, tokens_per_s=rate)


def test_stages_that_share_a_device_are_measured_together_or_not_at_all() -> None:
    one, other = planned(0, 2), planned(2, 6)
    first = (one, told(0, 2, [0.1, 0.3], None))
    both = (first, (other, told(2, 6, [0.4], 9.0)))
    assert mean_step_s(both, "a", "cpu", 0, 6) == pytest.approx(0.6)
    assert mean_step_s((first,), "a", "cpu", 0, 6) is None
    assert mean_step_s(both, "b", "cpu", 0, 6) is None
    plan = PipelinePlan(id=PipelineId("0"), stages=(one, other), num_blocks=1, block_tokens=4)
    assert total_tokens_per_s([plan], both) == 9.0
    assert total_tokens_per_s([plan], (first,)) is None


def test_the_coordinator_tells_the_steps_of_stages_that_answer() -> None:
    async def main(rng: random.Random) -> None:
        async with service(rng, wanted(AutoPolicy(), num_stages=2)) as world:
            await world.start_node("a")
            await world.until(lambda world: world.is_ready)
            record = world.living("a/stage-0.1").stage._steps
            record.add((3, 6), batch([5], [1]), 0.25, now=1.0)
            answer = await world.gateway.ask(world.coordinator, GetSteps(), timeout_s=10)
            assert isinstance(answer, StepsDocument)
            assert b'"layers": [3, 6], "steps": [[1, 6, 6, 1, 0.25]]' in answer.steps
            found = None
            while found is None:
                await asyncio.sleep(0.5)
                found = (await world.recommendation())["current"]
            (stage,) = found["pipelines"][0]["stages"]
            assert stage["measured_step_s"] is None  # the other half was not measured
            record = world.living("a/stage-0.0").stage._steps
            record.add((0, 3), batch([5], [1]), 0.5, now=1.0)
            current = (await world.recommendation())["current"]
            assert current["pipelines"][0]["stages"][0]["measured_step_s"] == pytest.approx(0.75)

    run(main, seed=0)
