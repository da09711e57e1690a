"""What routers are told of pipelines' speeds: fitted anew only where these change."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from actors import capacities
from actors.capacities import Capacities
from scheduling.batch_times import BatchTimes
from scheduling.goal import Limits
from scheduling.live import MeasuredDevice, Placed, Situation
from scheduling.pipeline_fit import FittedStage, fit_stages
from scheduling.roofline import LinkRate
from scheduling.workload import fixed
from tests.actors.test_replanning import SHAPE

NUM_LAYERS = SHAPE.num_layers
HALF = NUM_LAYERS // 2


def device(node: str, speed: float = 1.0) -> MeasuredDevice:
    return MeasuredDevice(
        node=node,
        device="cpu",
        memory_bytes=1 << 33,
        flops_per_s=1e12 * speed,
        bytes_per_s=1e11 * speed,
        layer_overhead_s=0.0,
    )


def situation(*devices: MeasuredDevice, **changes: Any) -> Situation:
    """Pipeline `0` over nodes a and b, and `1` on c alone."""
    two = (Placed("a", "cpu", 0, HALF), Placed("b", "cpu", HALF, NUM_LAYERS))
    one = (Placed("c", "cpu", 0, NUM_LAYERS),)
    usual = Situation(
        devices=devices,
        links=(("a", "b", LinkRate(bytes_per_s=1e9, latency_s=1e-3)),),
        layout=(two, one),
        shape=SHAPE,
        workload=fixed(100, 100),
        limits=Limits(max_running=16, max_step_tokens=256, max_model_len=1024),
    )
    return replace(usual, **changes)


ALL = (device("a"), device("b"), device("c"))


def test_a_faster_device_makes_a_faster_pipeline_and_no_other() -> None:
    found = Capacities().of(situation(*ALL), ("0", "1"))
    faster = Capacities().of(situation(*ALL[:2], device("c", 4.0)), ("0", "1"))
    assert faster["0"] == found["0"]
    assert faster["1"].decode_s(8, 800) < 0.5 * found["1"].decode_s(8, 800)


def test_a_longer_link_makes_steps_longer() -> None:
    far = (("a", "b", LinkRate(bytes_per_s=1e9, latency_s=0.1)),)
    near_times = Capacities().of(situation(*ALL), ("0", "1"))["0"]
    far_times = Capacities().of(situation(*ALL, links=far), ("0", "1"))["0"]
    assert far_times.decode_s(1, 128) > near_times.decode_s(1, 128) + 0.09


def test_a_device_that_two_pipelines_share_is_half_of_one_to_each() -> None:
    whole = (Placed("a", "cpu", 0, NUM_LAYERS),)
    alone = Capacities().of(situation(*ALL, layout=(whole,)), ("0",))["0"]
    shared = Capacities().of(situation(*ALL, layout=(whole, whole)), ("0", "1"))["0"]
    assert shared.decode_s(8, 800) == pytest.approx(2 * alone.decode_s(8, 800), rel=0.01)


@pytest.mark.parametrize("known", [ALL[:2], (*ALL[:2], device("c", 0.0))])
def test_a_pipeline_of_which_too_little_was_measured_has_no_times(
    known: tuple[MeasuredDevice, ...],
) -> None:
    assert list(Capacities().of(situation(*known), ("0", "1"))) == ["0"]


def test_what_cannot_be_fitted_has_no_times() -> None:
    limits = Limits(max_running=1, max_step_tokens=1, max_model_len=1)
    assert Capacities().of(situation(*ALL, limits=limits), ("0", "1")) == {}


def test_only_pipelines_of_which_something_changed_are_fitted_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fitted: list[int] = []

    def noted(stages: Sequence[FittedStage], *others: Any) -> BatchTimes:
        fitted.append(len(stages))
        return fit_stages(stages, *others)

    monkeypatch.setattr(capacities, "fit_stages", noted)
    known = Capacities()
    first = known.of(situation(*ALL), ("0", "1"))
    assert known.of(situation(*ALL), ("0", "1")) == first
    assert fitted == [2, 1]
    known.of(situation(*ALL[:2], device("c", 2.0)), ("0", "1"))
    assert fitted == [2, 1, 1]
    longer = replace(situation(*ALL).limits, max_model_len=2048)
    known.of(situation(*ALL, limits=longer), ("0", "1"))
    assert fitted == [2, 1, 1, 2, 1]
