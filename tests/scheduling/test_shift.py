"""Changes are noticed soon, and seldom where there are none."""

from math import log
from statistics import NormalDist

import numpy as np
import numpy.typing as npt
import pytest

from scheduling.phases.profiler import Seen
from scheduling.phases.shift import STREAMS, RankCusum, ShiftDetector, ShiftRule
from scheduling.workload import synthetic

Array = npt.NDArray[np.float64]
RULE = ShiftRule()
FALSE_ALARM = 0.02
"""Part of all horizons, over all streams together, with an alarm for nothing."""


def news(prompts: list[int], outputs: list[int], *, elapsed_s: float = 1.0, num: int = 1) -> Seen:
    return Seen(
        elapsed_s=elapsed_s,
        num_arrived=num,
        gaps_s2=0.0,
        num_finished=len(prompts),
        prompts=tuple(prompts),
        outputs=tuple(outputs),
        prefill_queue_s=0.0,
        decode_queue_s=0.0,
    )


def peak_sums(reference: Array, values: Array, drift: float) -> Array:
    """The height that the sums of each run reach: [R].

    All runs at once, as the rule reads, so that thousands of horizons take a second.

    Shapes: reference [R, m], values [R, n]; all of them different from each other.
    """
    num_runs, num_reference = reference.shape
    lowest = min(float(reference.min()), float(values.min()))
    span = max(float(reference.max()), float(values.max())) - lowest + 1.0
    offset = span * np.arange(num_runs)[:, None] - lowest
    ordered = np.sort(reference + offset, axis=1).ravel()
    below = np.searchsorted(ordered, values + offset) - num_reference * np.arange(num_runs)[:, None]
    deviates = [
        NormalDist().inv_cdf((n + 0.5) / (num_reference + 1)) for n in range(num_reference + 1)
    ]
    scores = np.asarray(deviates)[below]
    up, down, peak = np.zeros(num_runs), np.zeros(num_runs), np.zeros(num_runs)
    for score in scores.T:
        up = np.maximum(0.0, up + score - drift)
        down = np.maximum(0.0, down - score - drift)
        peak = np.maximum(peak, np.maximum(up, down))
    return peak


def test_the_stated_threshold_is_exceeded_as_seldom_as_is_stated() -> None:
    """By simulation of values that do not change; of which distribution, does not matter.

    Each stream gets its part of the false alarms, so that together they keep to it whatever
    depends on what.
    """
    rng, num_runs = np.random.default_rng(0), 4000
    reference = rng.random((num_runs, RULE.num_reference))
    peaks = peak_sums(reference, rng.random((num_runs, RULE.horizon)), RULE.drift)
    found = np.quantile(peaks, 1.0 - FALSE_ALARM / len(STREAMS), method="higher")
    assert found == pytest.approx(RULE.threshold, rel=0.06)


@pytest.mark.parametrize("kind", ["normal", "heavy", "whole numbers"])
def test_a_thousand_runs_without_a_change_keep_to_the_stated_false_alarms(kind: str) -> None:
    rng, shape = np.random.default_rng(1), (1000, RULE.num_reference + RULE.horizon)
    alarms = np.zeros(1000, bool)
    for _ in range(3):  # streams
        values = {
            "normal": rng.normal(size=shape),
            "heavy": rng.lognormal(3.0, 2.0, shape),
            "whole numbers": np.floor(rng.lognormal(3.0, 1.2, shape)) + rng.random(shape) * 1e-6,
        }[kind]
        m = RULE.num_reference
        alarms |= peak_sums(values[:, :m], values[:, m:], RULE.drift) > RULE.threshold
    expected = FALSE_ALARM
    assert alarms.mean() <= expected + 2.33 * (expected * (1 - expected) / 1000) ** 0.5


def test_the_rule_as_it_runs_is_the_rule_as_it_was_calibrated() -> None:
    rng = np.random.default_rng(2)
    for _ in range(20):
        shift = rng.uniform(0, 1.0)
        values = rng.normal(size=RULE.num_reference + RULE.horizon)
        values[RULE.num_reference :] += shift
        stream = RankCusum(RULE)
        alarmed = any(stream.take(float(value)) is not None for value in values)
        m = RULE.num_reference
        peak = peak_sums(values[None, :m], values[None, m:], RULE.drift)[0]
        assert alarmed == bool(peak > RULE.threshold)


@pytest.mark.parametrize(("before", "after"), [("code", "conversation"), ("conversation", "code")])
def test_another_sort_of_requests_is_noticed_within_thirty(before: str, after: str) -> None:
    delays = []
    for seed in range(40):
        detector = ShiftDetector()
        old, new = synthetic(before, seed=seed), synthetic(after, seed=1000 + seed)
        for prompt, output in zip(old.prompts[:300], old.outputs[:300], strict=True):
            if detector.take(news([prompt], [output])) is not None:
                break  # an alarm for nothing; counted above
        else:
            delays.append(_delay(detector, new.prompts, new.outputs))
    assert len(delays) >= 38
    assert max(delays) <= 30


def _delay(detector: ShiftDetector, prompts: tuple[int, ...], outputs: tuple[int, ...]) -> int:
    for number, (prompt, output) in enumerate(zip(prompts, outputs, strict=True), start=1):
        shift = detector.take(news([prompt], [output]))
        if shift is not None:
            assert shift.num_values <= number + RULE.num_reference
            return number
    return len(prompts)


def test_a_rate_that_doubles_is_noticed_and_said_to_be_shorter_gaps() -> None:
    rng, detector = np.random.default_rng(3), ShiftDetector()
    for _ in range(150):
        assert detector.take(news([], [], elapsed_s=2.0, num=int(rng.poisson(10)))) is None
    shifts = [
        detector.take(news([], [], elapsed_s=2.0, num=int(rng.poisson(20)))) for _ in range(20)
    ]
    found = [shift for shift in shifts if shift is not None]
    assert [(shift.stream, shift.is_up) for shift in found] == [("gap", False)]


def test_requests_that_cease_are_noticed() -> None:
    rng, detector = np.random.default_rng(4), ShiftDetector()
    for _ in range(RULE.num_reference):
        detector.take(news([], [], num=int(rng.poisson(10))))
    shifts = [detector.take(news([], [], num=0)) for _ in range(30)]
    assert any(shift is not None and shift.stream == "gap" and shift.is_up for shift in shifts)


def test_what_is_usual_is_learnt_anew_after_a_change() -> None:
    detector = ShiftDetector()
    old, new = synthetic("code", seed=1), synthetic("conversation", seed=2)
    shifts = []
    for load in (old, new):
        for prompt, output in zip(load.prompts[:400], load.outputs[:400], strict=True):
            shifts.append(detector.take(news([prompt], [output])))
    assert sum(shift is not None for shift in shifts) == 1


def test_the_newest_become_the_reference_after_a_horizon() -> None:
    stream = RankCusum(ShiftRule(num_reference=8, horizon=8, drift=0.5, threshold=1e6))
    for number in range(16):
        stream.take(log(1 + number))
    assert stream._reference == sorted(log(1 + number) for number in range(8, 16))


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"num_reference": 4}, "reference of 8 or more"),
        ({"horizon": 50}, "horizon no shorter, got 96 and 50"),
        ({"drift": -0.1}, "drift of 0 or more"),
        ({"threshold": 0.0}, "threshold above 0, got 0.5 and 0.0"),
    ],
)
def test_a_rule_that_makes_no_sense_is_refused(wrong: dict[str, float], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        ShiftRule(**wrong)  # type: ignore[arg-type]
