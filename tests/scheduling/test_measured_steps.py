"""Measured steps become what calibration takes, and true rates are found again."""

import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduling.calibration import Measurement, predict
from scheduling.hardware import CATALOGUE
from scheduling.measured_steps import StageStep, calibrate_device, measurement_of, medians
from scheduling.roofline import ModelShape, StepWork, stage_time_s

SHAPE = ModelShape(
    num_layers=12,
    hidden=1024,
    num_heads=16,
    num_kv_heads=4,
    head_dim=64,
    intermediate=4096,
    vocab=32000,
)
TRUE = replace(CATALOGUE["L4"], flops_part=0.5, bytes_part=0.6, layer_overhead_s=60e-6)


def step(tokens: int, context: int, *, layers: tuple[int, int] = (0, 6)) -> StageStep:
    work = StepWork(num_tokens=tokens, num_pairs=tokens * context, num_context=context, num_drawn=1)
    return StageStep(start=layers[0], end=layers[1], work=work, seconds=1.0)


def timed(found: StageStep, factor: float = 1.0) -> StageStep:
    return replace(found, seconds=predict(TRUE, measurement_of(SHAPE, found)) * factor)


def test_true_rates_are_found_again_though_some_steps_were_disturbed() -> None:
    sizes = [1, 8, 64, 512, 1024, 2048, 4096]
    steps = [timed(step(tokens, 500)) for tokens in sizes for _ in range(5)]
    steps += [timed(step(tokens, 500), 30.0) for tokens in sizes for _ in range(2)]
    found = calibrate_device(CATALOGUE["L4"], SHAPE, steps)
    assert found.mean_error < 0.01
    assert found.kind.flops_part == pytest.approx(TRUE.flops_part, rel=0.02)
    assert found.kind.bytes_part == pytest.approx(TRUE.bytes_part, rel=0.05)


def test_steps_of_one_size_are_too_few() -> None:
    with pytest.raises(ValueError, match="expected 3 steps or more, got 1"):
        calibrate_device(CATALOGUE["L4"], SHAPE, [timed(step(1, 10))] * 100)


@given(st.integers(1, 4096), st.integers(1, 100_000), st.sampled_from([(0, 3), (3, 12)]))
def test_a_step_is_at_most_as_long_as_if_its_parts_came_one_after_another(
    tokens: int, context: int, layers: tuple[int, int]
) -> None:
    """The roofline bounds each part by itself, the fit all at once: never more, at least half."""
    found = step(tokens, context, layers=layers)
    apart = stage_time_s(TRUE.rates, SHAPE, layers, found.work)
    at_once = predict(TRUE, measurement_of(SHAPE, found))
    assert apart / 2.01 <= at_once <= apart * 1.001


@given(st.lists(st.floats(1e-6, 10), min_size=1, max_size=30), st.randoms(use_true_random=False))
def test_alike_steps_are_one_and_their_order_does_not_matter(
    times: list[float], rng: random.Random
) -> None:
    measured = [Measurement(num_bytes=1e6, flops=1e6, num_layers=1, seconds=t) for t in times]
    (one,) = medians(measured)
    rng.shuffle(measured)
    (other,) = medians(measured)
    assert one == other
    assert min(times) <= one.seconds <= max(times)
