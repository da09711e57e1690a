"""Rates are learnt from steps that come in for as long as a service runs, within bounds."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduling.learnt_rates import (
    MAX_ALIKE,
    MAX_KINDS,
    MAX_SIZES,
    LearntRate,
    StepMemory,
    is_news,
    learnt_rates,
    usual_part,
)
from scheduling.measured_steps import StageStep
from tests.scheduling.test_calibration import LAYERS, SHAPE, SIZES, TRUE, slower, step

AT_START = {"L4": replace(TRUE, flops_part=1.0, bytes_part=1.0).rates}


def remembered(*steps: StageStep, kind: str = "L4") -> StepMemory:
    memory = StepMemory()
    for each in steps:
        memory.add(kind, each)
    return memory


def all_sizes(factor: float = 1.0) -> list[StageStep]:
    return [slower(step(n, layers=layers), factor) for layers in LAYERS for n in SIZES]


def rate(flops: float = 1.0, num_bytes: float = 1.0) -> LearntRate:
    return LearntRate(
        flops_per_s=flops,
        bytes_per_s=num_bytes,
        layer_overhead_s=0.0,
        step_overhead_s=0.0,
        mean_error=0.0,
        num_sizes=1,
    )


def test_rates_are_learnt_from_what_is_remembered() -> None:
    found = learnt_rates(remembered(*all_sizes()).taken(), SHAPE, AT_START)["L4"]
    assert found.flops_per_s == pytest.approx(TRUE.rates.flops_per_s, rel=0.01)
    assert found.bytes_per_s == pytest.approx(TRUE.rates.bytes_per_s, rel=0.01)
    assert found.num_sizes == 24


def test_what_steps_do_not_tell_stays_as_it_was_measured_at_the_start() -> None:
    """Steps of few tokens wait for memory: they say nothing of arithmetic."""
    few = [step(n, layers=layers) for layers in LAYERS for n in (1, 2, 3, 4)]
    found = learnt_rates(remembered(*few).taken(), SHAPE, AT_START)["L4"]
    assert found.flops_per_s == pytest.approx(AT_START["L4"].flops_per_s, rel=0.01)
    assert found.bytes_per_s == pytest.approx(TRUE.rates.bytes_per_s, rel=0.1)


def test_a_device_that_became_slower_is_learnt_anew() -> None:
    memory = remembered(*all_sizes())
    for _ in range(MAX_ALIKE):
        for each in all_sizes(2.0):
            memory.add("L4", each)
    found = learnt_rates(memory.taken(), SHAPE, AT_START)["L4"]
    assert found.flops_per_s == pytest.approx(TRUE.rates.flops_per_s / 2, rel=0.02)


def test_nothing_is_learnt_from_too_few_sizes_of_unknown_kinds_or_from_what_does_not_fit() -> None:
    assert learnt_rates(remembered(step(1)).taken(), SHAPE, AT_START) == {}
    assert learnt_rates(remembered(*all_sizes(), kind="?").taken(), SHAPE, AT_START) == {}
    wild = [slower(each, 30.0 if n % 2 else 1.0) for n, each in enumerate(all_sizes())]
    assert learnt_rates(remembered(*wild).taken(), SHAPE, AT_START) == {}


@given(st.lists(st.tuples(st.integers(0, 99), st.integers(1, 10**6)), max_size=400))
def test_what_is_remembered_is_bounded(told: list[tuple[int, int]]) -> None:
    memory = StepMemory()
    for kind, context in told:
        memory.add(str(kind), step(1, context))
    steps = memory.taken()
    assert len(steps) <= MAX_KINDS
    assert all(len(mine) <= MAX_SIZES * MAX_ALIKE for mine in steps.values())


def test_sizes_of_a_kind_are_bounded_and_the_newest_stay() -> None:
    memory = StepMemory()
    for number in range(MAX_SIZES + 10):
        memory.add("L4", step(1, layers=(number, number + 1)))
    assert {each.start for each in memory.taken()["L4"]} == set(range(10, MAX_SIZES + 10))


def test_the_same_steps_again_are_no_news() -> None:
    memory = remembered(step(1))
    assert memory.has_news
    memory.taken()
    assert not memory.has_news
    memory.add("L4", slower(step(1), 0.0))  # one without time tells nothing
    assert not memory.has_news
    memory.add("L4", step(2))
    assert memory.has_news


def test_only_rates_that_differ_are_news() -> None:
    known = {"a": rate(1.0, 1.0)}
    assert not is_news(known, {"a": rate(1.05, 0.95)})
    assert is_news(known, {"a": rate(1.2, 1.0)})
    assert is_news(known, {"a": rate(1.0, 0.8)})
    assert is_news(known, {"a": rate(), "b": rate()})
    assert not is_news(known, {})


def test_kinds_that_never_served_count_as_those_that_did_reach_in_the_mean() -> None:
    starts = dict.fromkeys("abc", AT_START["L4"])
    start = AT_START["L4"]
    learnt = {
        "a": rate(start.flops_per_s * 0.5, start.bytes_per_s),
        "b": rate(start.flops_per_s * 0.125, start.bytes_per_s * 0.25),
    }
    assert usual_part(learnt, starts) == pytest.approx((0.25, 0.5))
    assert usual_part({}, starts) == (1.0, 1.0)
