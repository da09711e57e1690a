from collections.abc import Iterator
from itertools import combinations, pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduling.errors import Infeasible
from scheduling.split import ModelCost, StageDevice, num_kv_blocks, split_layers

Ranges = tuple[tuple[int, int], ...]


def all_splits(num_layers: int, num_stages: int) -> Iterator[Ranges]:
    for cuts in combinations(range(1, num_layers), num_stages - 1):
        yield tuple(pairwise((0, *cuts, num_layers)))


def stage_time(ranges: Ranges, stage: int, device: StageDevice, cost: ModelCost) -> float:
    """The documented formula, once more and plainly; infinite where the stage does not fit."""
    (start, end), last = ranges[stage], stage == len(ranges) - 1
    weights = sum(cost.layer_bytes[start:end]) + (cost.head_bytes if last else 0)
    flops = sum(cost.layer_flops[start:end]) + (cost.head_flops if last else 0)
    kv = cost.kv_bytes_per_token * (end - start)
    held = weights + (cost.embedding_bytes if stage == 0 else 0)
    if cost.tied and len(ranges) == 1:
        held -= min(cost.head_bytes, cost.embedding_bytes)
    if held + kv * cost.num_kv_tokens > device.memory_bytes:
        return float("inf")
    read = weights + kv * cost.batch * cost.context
    roofline = max(read / device.bytes_per_s, flops * cost.batch / device.flops_per_s)
    prefill = cost.prefill_ratio * cost.batch * sum(cost.layer_flops[start:end])
    return roofline + (end - start) * device.layer_overhead_s + prefill / device.flops_per_s


def times(ranges: Ranges, devices: list[StageDevice], cost: ModelCost) -> list[float]:
    return [stage_time(ranges, stage, device, cost) for stage, device in enumerate(devices)]


device_facts = st.builds(
    StageDevice,
    memory_bytes=st.integers(50, 2000),
    flops_per_s=st.integers(1, 50).map(float),
    bytes_per_s=st.integers(1, 50).map(float),
    layer_overhead_s=st.sampled_from([0.0, 0.5, 3.0]),
)


@st.composite
def costs(draw: st.DrawFn) -> ModelCost:
    num_layers = draw(st.integers(1, 8))
    return ModelCost(
        layer_bytes=tuple(draw(st.integers(1, 100)) for _ in range(num_layers)),
        layer_flops=tuple(float(draw(st.integers(1, 100))) for _ in range(num_layers)),
        embedding_bytes=draw(st.integers(0, 200)),
        head_bytes=draw(st.integers(0, 200)),
        head_flops=float(draw(st.integers(0, 200))),
        tied=draw(st.booleans()),
        kv_bytes_per_token=draw(st.integers(0, 4)),
        num_kv_tokens=draw(st.integers(0, 60)),
        batch=draw(st.integers(1, 8)),
        prefill_ratio=draw(st.sampled_from([0.0, 1.0, 2.5])),
        context=draw(st.integers(0, 20)),
    )


@given(cost=costs(), devices=st.lists(device_facts, min_size=1, max_size=4))
@settings(max_examples=300, deadline=None)
def test_the_slowest_stage_is_as_fast_as_in_the_best_of_all_splits(
    cost: ModelCost, devices: list[StageDevice]
) -> None:
    num_layers = len(cost.layer_bytes)
    splits = list(all_splits(num_layers, len(devices)))
    best = min((max(times(ranges, devices, cost)) for ranges in splits), default=float("inf"))
    if best == float("inf"):
        with pytest.raises(Infeasible):
            split_layers(num_layers, devices, cost)
        return
    ranges = split_layers(num_layers, devices, cost)
    assert ranges in splits
    assert max(times(ranges, devices, cost)) == pytest.approx(best, rel=1e-12)


def make_cost(
    num_layers: int = 12,
    *,
    head: float = 0.0,
    memory_for: int = 0,
    tied: bool = False,
) -> ModelCost:
    return ModelCost(
        layer_bytes=(1_000_000_000,) * num_layers,
        layer_flops=(1e9,) * num_layers,
        embedding_bytes=int(head * 1e9),
        head_bytes=int(head * 1e9),
        head_flops=head * 1e9,
        tied=tied,
        kv_bytes_per_token=1_000_000,
        num_kv_tokens=memory_for,
        batch=1,
        context=0,
    )


def make_device(memory_gb: float = 100, speed: float = 1.0) -> StageDevice:
    return StageDevice(
        memory_bytes=int(memory_gb * 1e9), flops_per_s=speed * 1e12, bytes_per_s=speed * 1e10
    )


def test_equal_devices_get_equal_parts_without_a_head() -> None:
    assert split_layers(12, [make_device()] * 3, make_cost()) == ((0, 4), (4, 8), (8, 12))


def test_the_head_takes_layers_off_the_last_stage() -> None:
    assert split_layers(12, [make_device()] * 2, make_cost(head=2.8)) == ((0, 7), (7, 12))


def test_a_device_three_times_as_fast_gets_three_times_the_layers() -> None:
    devices = [make_device(speed=3.0), make_device()]
    assert split_layers(12, devices, make_cost()) == ((0, 9), (9, 12))


def test_a_fast_device_gets_no_more_than_its_memory_holds() -> None:
    devices = [make_device(memory_gb=4, speed=9.0), make_device()]
    assert split_layers(12, devices, make_cost()) == ((0, 4), (4, 12))


def test_the_kv_cache_counts_in_memory() -> None:
    devices = [make_device(memory_gb=8), make_device()]
    cost = make_cost(memory_for=1000)
    assert split_layers(12, devices, cost) == ((0, 4), (4, 12))


def test_stages_that_are_not_the_slowest_are_even_too() -> None:
    ranges = split_layers(10, [make_device()] * 4, make_cost(10))
    assert sorted(end - start for start, end in ranges) == [2, 2, 3, 3]


def test_a_single_stage_holds_a_tied_head_once() -> None:
    one = [make_device(memory_gb=14)]
    assert split_layers(12, one, make_cost(head=2.0, tied=True)) == ((0, 12),)
    with pytest.raises(Infeasible):
        split_layers(12, one, make_cost(head=2.0, tied=False))


def test_a_model_that_does_not_fit_is_refused_with_what_it_needs_and_what_there_is() -> None:
    devices = [make_device(memory_gb=4), make_device(memory_gb=8)]
    with pytest.raises(Infeasible, match=r"need 13 GB .*the devices have 4 GB, 8 GB"):
        split_layers(12, devices, make_cost(head=0.5))


def test_more_devices_than_layers_are_refused() -> None:
    with pytest.raises(Infeasible, match="2 layers over 3 devices"):
        split_layers(2, [make_device()] * 3, make_cost(2))


def test_no_devices_are_refused() -> None:
    with pytest.raises(Infeasible, match="12 layers over 0 devices"):
        split_layers(12, [], make_cost())


def test_costs_of_another_number_of_layers_are_refused() -> None:
    with pytest.raises(ValueError, match="expected 10, got 12 and 12"):
        split_layers(10, [make_device()], make_cost(12))


def test_the_blocks_are_those_of_the_stage_with_least_room() -> None:
    ranges = ((0, 4), (4, 12))
    devices = [make_device(memory_gb=6), make_device(memory_gb=10)]
    blocks = num_kv_blocks(
        ranges, devices, make_cost(), block_tokens=10, max_useful_tokens=1_000_000
    )
    assert blocks == 25  # 2 GB behind 8 layers, each 10 MB a block; the other has room for 50


def test_the_blocks_are_no_more_than_are_of_use() -> None:
    blocks = num_kv_blocks(
        ((0, 12),), [make_device()], make_cost(), block_tokens=16, max_useful_tokens=100
    )
    assert blocks == 7


def test_the_embedding_and_the_head_leave_less_room_for_blocks() -> None:
    ranges, devices = ((0, 6), (6, 12)), [make_device(memory_gb=7), make_device(memory_gb=9)]
    cost = make_cost(head=0.4)
    assert num_kv_blocks(ranges, devices, cost, block_tokens=10, max_useful_tokens=10_000) == 10


def test_a_stage_without_room_for_a_block_is_refused_with_numbers() -> None:
    with pytest.raises(Infeasible, match=r"stage 0 with layers 0:12 needs 12.2 GB .* has 12 GB"):
        num_kv_blocks(
            ((0, 12),), [make_device(12)], make_cost(), block_tokens=16, max_useful_tokens=100
        )
