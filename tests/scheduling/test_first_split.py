"""The split that a service begins with is the one its planner would give."""

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduling.cluster import WITHIN_SITE
from scheduling.errors import Infeasible
from scheduling.first_split import Ranges, first_split
from scheduling.forecast import Forecaster, Row
from scheduling.goal import Goal, Limits
from scheduling.hardware import DeviceKind
from scheduling.roofline import ModelShape, model_cost
from scheduling.split import StageDevice, split_layers
from scheduling.stage_cost import CostTable, GroupKind
from scheduling.workload import fixed

SHAPE = ModelShape(
    num_layers=24,
    hidden=256,
    num_heads=4,
    num_kv_heads=4,
    head_dim=64,
    intermediate=1024,
    vocab=500,
)
COST = model_cost(SHAPE, num_kv_tokens=512)
LOAD = fixed(64, 64)
LIMITS = Limits(max_running=32, max_step_tokens=256, max_model_len=512, memory_fraction=1.0)


def device(speed: float = 1.0, memory_bytes: int = 10**9) -> StageDevice:
    return StageDevice(
        memory_bytes=memory_bytes,
        flops_per_s=1e12 * speed,
        bytes_per_s=1e10 * speed,
        layer_overhead_s=1e-5 / speed,
    )


def split(*devices: StageDevice, shape: ModelShape | None = SHAPE) -> Ranges:
    hops = (WITHIN_SITE,) * (len(devices) - 1)
    return first_split(devices, hops, COST, shape, LOAD, LIMITS)


def counts(ranges: Ranges) -> list[int]:
    return [end - start for start, end in ranges]


def test_a_device_of_twice_the_speed_gets_twice_the_layers() -> None:
    assert counts(split(device(2.0), device(1.0))) in ([16, 8], [17, 7])
    assert counts(split(device(1.0), device(2.0))) in ([8, 16], [9, 15])


def test_the_head_counts_as_the_layers_it_takes_the_time_of() -> None:
    heavy = replace(SHAPE, vocab=4 * SHAPE.layer_parameters // SHAPE.hidden)  # four layers' weights
    cost = model_cost(heavy, num_kv_tokens=512)
    found = first_split((device(), device()), (WITHIN_SITE,), cost, heavy, LOAD, LIMITS)
    assert counts(found) in ([13, 11], [14, 10])


def test_embedding_and_head_count_in_the_memory_of_the_ends() -> None:
    heavy = replace(SHAPE, vocab=4 * SHAPE.layer_parameters // SHAPE.hidden)
    cost = model_cost(heavy, num_kv_tokens=512)
    tight = device(memory_bytes=int(13.5 * SHAPE.layer_weight_bytes))
    found = first_split((tight, device(0.3)), (WITHIN_SITE,), cost, heavy, LOAD, LIMITS)
    assert counts(found)[0] <= 9  # four of them are the embedding


@settings(max_examples=15, deadline=None)
@given(st.lists(st.sampled_from([0.25, 0.5, 1.0, 3.0]), min_size=1, max_size=4))
def test_it_is_what_the_planner_forecasts_best_for_these_devices_in_this_order(
    speeds: list[float],
) -> None:
    found = split(*(device(speed) for speed in speeds))
    assert [start for start, _ in found] + [24] == [0] + [end for _, end in found]
    kinds = {str(i): _kind(str(i), device(speed)) for i, speed in enumerate(speeds)}
    forecaster = Forecaster(CostTable(SHAPE, LOAD, LIMITS, kinds.__getitem__), Goal())
    groups = tuple(GroupKind(name, 1, WITHIN_SITE) for name in kinds)
    row = Row(groups, (WITHIN_SITE,) * (len(speeds) - 1))
    best, mine = forecaster.forecast(row), forecaster.forecast(row, tuple(counts(found)))
    assert best is not None
    assert mine is not None
    assert mine.requests_per_s == pytest.approx(best.requests_per_s)


def _kind(name: str, rates: StageDevice) -> DeviceKind:
    return DeviceKind(
        name=name,
        memory_bytes=rates.memory_bytes,
        peak_flops_per_s=rates.flops_per_s,
        peak_bytes_per_s=rates.bytes_per_s,
        flops_part=1.0,
        bytes_part=1.0,
        layer_overhead_s=rates.layer_overhead_s,
    )


def test_without_a_shape_layers_are_split_by_the_time_of_one_step() -> None:
    devices = (device(2.0), device(1.0))
    assert split(*devices, shape=None) == split_layers(24, devices, COST)


def test_where_forecasts_see_no_room_for_a_step_the_model_is_still_served() -> None:
    """The workspace of a step is an estimate: it must not refuse what fits."""
    room = int(SHAPE.total_bytes + 24 * SHAPE.kv_bytes_per_token * 520)
    found = split(device(memory_bytes=room))
    assert found == ((0, 24),)


def test_what_cannot_be_held_is_refused_with_the_numbers() -> None:
    with pytest.raises(Infeasible, match="weights and KV cache need"):
        split(device(memory_bytes=10**6), device(memory_bytes=10**6))
    with pytest.raises(Infeasible, match="expected a layer or more for each"):
        split(*[device()] * 25)


@pytest.mark.parametrize("speeds", [(1.0, 1.0, 1.0), (3.0, 1.0, 2.0)])
def test_ranges_follow_one_another(speeds: tuple[float, ...]) -> None:
    found = split(*(device(speed) for speed in speeds))
    assert all(one[1] == other[0] for one, other in pairwise(found))
