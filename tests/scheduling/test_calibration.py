from dataclasses import replace

import pytest

from scheduling.calibration import Measurement, calibrate, predict
from scheduling.hardware import CATALOGUE

TRUE = replace(
    CATALOGUE["L4"], flops_part=0.55, bytes_part=0.7, layer_overhead_s=80e-6, name="true"
)


def steps(noise: float = 0.0) -> list[Measurement]:
    found = []
    for number, tokens in enumerate([1, 4, 16, 64, 256, 1024, 4096]):
        step = Measurement(num_bytes=1.7e9, flops=1.7e9 * tokens, num_layers=1, seconds=1.0)
        error = 1 + noise * (-1) ** number
        found.append(replace(step, seconds=predict(TRUE, step) * error))
    return found


def test_exact_measurements_give_the_true_rates_back() -> None:
    found = calibrate(CATALOGUE["L4"], steps())
    assert found.mean_error < 1e-3
    assert found.kind.flops_part == pytest.approx(TRUE.flops_part, rel=0.01)
    assert found.kind.rates.memory_bytes == TRUE.memory_bytes


def test_what_the_form_cannot_say_is_reported_as_error() -> None:
    found = calibrate(CATALOGUE["L4"], steps(noise=0.2))
    assert 0.05 < found.mean_error < 0.25
    assert found.max_error >= found.mean_error


def test_too_few_or_empty_measurements_are_refused() -> None:
    with pytest.raises(ValueError, match="expected 3 steps or more, got 2"):
        calibrate(CATALOGUE["L4"], steps()[:2])
    with pytest.raises(ValueError, match="expected work and time"):
        calibrate(CATALOGUE["L4"], [*steps(), replace(steps()[0], seconds=0.0)])
