"""Rates are found again from measured steps, whatever a busy machine did to some of them."""

import random
from collections.abc import Callable, Iterable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduling.calibration import calibrate
from scheduling.hardware import CATALOGUE, DeviceKind
from scheduling.measured_steps import MOST_COUNTED, StageStep, alike
from scheduling.roofline import ModelShape, StageTime, StepWork
from scheduling.step_parts import StepParts

SHAPE = ModelShape(
    num_layers=12,
    hidden=1024,
    num_heads=16,
    num_kv_heads=4,
    head_dim=64,
    intermediate=4096,
    vocab=32000,
)
TRUE = replace(
    CATALOGUE["L4"],
    flops_part=0.5,
    bytes_part=0.6,
    layer_overhead_s=60e-6,
    step_overhead_s=400e-6,
)
SIZES = (1, 8, 64, 256, 512, 1024, 2048, 4096)
LAYERS = ((0, 2), (0, 9), (9, 12))


def step(tokens: int, context: int = 500, layers: tuple[int, int] = (0, 6)) -> StageStep:
    """A step that takes what it takes on `TRUE`."""
    work = StepWork(num_tokens=tokens, num_pairs=tokens * context, num_context=context, num_drawn=1)
    seconds = StageTime(TRUE.rates, SHAPE, layers).of(work)
    return StageStep(start=layers[0], end=layers[1], work=work, seconds=seconds)


def slower(found: StageStep, factor: float) -> StageStep:
    return replace(found, seconds=found.seconds * factor)


def of_all_sizes(noise: Callable[[], float], times: int = 20) -> Iterable[StageStep]:
    for layers in LAYERS:
        for tokens in SIZES:
            for _ in range(times):
                yield slower(step(tokens, layers=layers), noise())


def assert_true(kind: DeviceKind, rates: float, overheads: float) -> None:
    """Rates and overheads are within these parts of the true ones."""
    assert kind.flops_part == pytest.approx(TRUE.flops_part, rel=rates)
    assert kind.bytes_part == pytest.approx(TRUE.bytes_part, rel=rates)
    assert kind.layer_overhead_s == pytest.approx(TRUE.layer_overhead_s, rel=overheads)
    assert kind.step_overhead_s == pytest.approx(TRUE.step_overhead_s, rel=overheads)


def test_undisturbed_steps_give_the_true_rates_back() -> None:
    found = calibrate(CATALOGUE["L4"], SHAPE, of_all_sizes(lambda: 1.0, times=1))
    assert_true(found.kind, rates=0.01, overheads=0.01)
    assert found.mean_error < 1e-3
    assert (found.num_sizes, found.num_steps) == (24, 24)
    assert found.kind.rates.memory_bytes == TRUE.memory_bytes


@pytest.mark.parametrize("seed", range(3))
def test_heavy_tailed_noise_moves_the_rates_little(seed: int) -> None:
    """A busy machine only ever adds: a Pareto tail, where every tenth step takes 60 % longer."""
    rng = random.Random(seed)
    found = calibrate(CATALOGUE["L4"], SHAPE, of_all_sizes(lambda: 0.98 + 0.02 * tail(rng)))
    assert_true(found.kind, rates=0.1, overheads=0.25)
    assert found.mean_error < 0.03


def tail(rng: random.Random) -> float:
    return rng.paretovariate(0.7)


@pytest.mark.parametrize("seed", range(3))
def test_sizes_that_were_held_up_altogether_are_outvoted(seed: int) -> None:
    """A whole size of step may have been measured while another process had the machine."""
    rng = random.Random(seed)
    struck = set(rng.sample([(layers, tokens) for layers in LAYERS for tokens in SIZES], 4))
    steps = [
        slower(step(tokens, layers=layers), 4.0 if (layers, tokens) in struck else 1.0)
        for layers in LAYERS
        for tokens in SIZES
    ]
    found = calibrate(CATALOGUE["L4"], SHAPE, steps)
    assert_true(found.kind, rates=0.01, overheads=0.02)
    assert found.max_error > 0.5  # told, and not hidden


def test_what_the_form_cannot_say_is_reported_as_error() -> None:
    factors = iter([1.3, 0.7] * 12)
    found = calibrate(CATALOGUE["L4"], SHAPE, of_all_sizes(lambda: next(factors), times=1))
    assert 0.1 < found.mean_error < 0.35
    assert found.max_error >= found.mean_error


def test_no_overhead_becomes_negative_where_steps_are_quicker_than_the_rates_say() -> None:
    rates = replace(TRUE, layer_overhead_s=0.0, step_overhead_s=0.0).rates
    steps = []
    for tokens in SIZES:
        found = step(tokens)
        less = 1e-4 if tokens == 1 else 0.0
        seconds = StageTime(rates, SHAPE, (0, 6)).of(found.work) - less
        steps.append(replace(found, seconds=seconds))
    kind = calibrate(CATALOGUE["L4"], SHAPE, steps).kind
    assert kind.layer_overhead_s >= 0
    assert kind.step_overhead_s >= 0


def test_too_few_sizes_or_empty_steps_are_refused() -> None:
    with pytest.raises(ValueError, match="steps of 4 sizes or more, got 1 in 100 steps"):
        calibrate(CATALOGUE["L4"], SHAPE, [step(1)] * 100)
    with pytest.raises(ValueError, match="expected work and time"):
        calibrate(CATALOGUE["L4"], SHAPE, [*of_all_sizes(lambda: 1.0), slower(step(1), 0.0)])


@given(
    st.integers(1, 4096),
    st.integers(1, 100_000),
    st.integers(0, 64),
    st.sampled_from([(0, 3), (3, 12), (0, 12)]),
)
def test_a_fit_takes_every_step_for_what_forecasts_take_it_for(
    tokens: int, context: int, drawn: int, layers: tuple[int, int]
) -> None:
    work = StepWork(
        num_tokens=tokens, num_pairs=tokens * context, num_context=context, num_drawn=drawn
    )
    found = StageStep(start=layers[0], end=layers[1], work=work, seconds=1.0)
    (seconds,) = StepParts.of(SHAPE, [found]).seconds_on(TRUE.rates)
    assert seconds == pytest.approx(StageTime(TRUE.rates, SHAPE, layers).of(work), rel=1e-12)


@given(st.lists(st.floats(1e-6, 10), min_size=1, max_size=30), st.randoms(use_true_random=False))
def test_alike_steps_are_one_and_their_order_does_not_matter(
    times: list[float], rng: random.Random
) -> None:
    steps = [replace(step(8), seconds=seconds) for seconds in times]
    (one,) = alike(steps)
    rng.shuffle(steps)
    (other,) = alike(steps)
    assert one == other
    assert min(times) <= one.step.seconds <= max(times)
    assert one.weight == pytest.approx(np.sqrt(min(len(times), MOST_COUNTED)))


def test_steps_of_other_layers_or_work_stay_apart() -> None:
    steps = [step(8), step(8, layers=(6, 12)), step(9), step(8, context=900)]
    assert len(alike(steps)) == 4
