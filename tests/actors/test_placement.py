from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from actors.kernel.ref import Ref
from actors.messages import JoinNode, WorkerUp
from actors.placement import (
    ServiceSettings,
    StageWish,
    WorkerSlot,
    missing_nodes,
    plan_pipelines,
    wanted_workers,
)
from scheduling.errors import Infeasible, InvalidPlan
from scheduling.plan import Plan, check
from tests.actors.wanted import MB, wanted_service

NUM_LAYERS = 12


def settings(**changes: Any) -> ServiceSettings:
    return wanted_service(
        NUM_LAYERS, **{"max_model_len": 1000, "num_blocks": 0, "block_tokens": 16, **changes}
    )


def ref(name: str) -> Ref:
    return Ref(address="tcp://127.0.0.1:1", incarnation=1, name=name)


def nodes(num_cores: int = 8, **devices: str) -> dict[str, JoinNode]:
    """Nodes by name, each with its devices in one string."""
    return {
        name: JoinNode(
            node=name,
            ref=ref(name),
            devices=tuple(text.split()),
            num_cores=num_cores,
            version="1",
        )
        for name, text in devices.items()
    }


def up(slot: WorkerSlot, memory_bytes: int = 1000 * MB, speed: float = 1e9) -> WorkerUp:
    return WorkerUp(
        worker=slot.worker,
        ref=ref(slot.worker),
        pid=1,
        device=slot.device,
        device_name="a device",
        memory_bytes=memory_bytes,
        flops_per_s=speed,
        bytes_per_s=speed,
        layer_overhead_s=0.0,
    )


def all_up(slots: tuple[WorkerSlot, ...], **facts: Any) -> dict[str, WorkerUp]:
    return {slot.worker: up(slot, **facts) for slot in slots}


# --- who is missing


def test_nodes_that_the_file_names_are_missed_by_name_in_its_order() -> None:
    wanted = settings(wait_nodes=("a", "b", "c"), num_nodes=9)
    assert missing_nodes(wanted, ("b", "z")) == ("node a", "node c")
    assert missing_nodes(wanted, ("c", "b", "a")) == ()


@pytest.mark.parametrize(
    ("joined", "missing"),
    [((), ("2 more nodes",)), (("a",), ("1 more node",)), (("a", "b"), ()), (("a", "b", "c"), ())],
)
def test_nodes_that_nobody_named_are_counted(
    joined: tuple[str, ...], missing: tuple[str, ...]
) -> None:
    assert missing_nodes(settings(num_nodes=2), joined) == missing


# --- where workers go


def test_a_stage_for_every_device_is_the_default() -> None:
    slots = wanted_workers(settings(), nodes(a="cuda:0 cuda:1", b="cpu"))
    assert [(slot.node, slot.device) for slot in slots] == [
        ("a", "cuda:0"),
        ("a", "cuda:1"),
        ("b", "cpu"),
    ]
    assert [slot.worker for slot in slots] == ["a/stage-0.0", "a/stage-0.1", "b/stage-0.2"]


def test_stages_that_share_a_node_share_its_cores() -> None:
    slots = wanted_workers(settings(num_stages=3), nodes(num_cores=8, a="cpu"))
    assert [slot.num_threads for slot in slots] == [2, 2, 2]
    many = wanted_workers(settings(num_stages=3), nodes(num_cores=2, a="cpu"))
    assert [slot.num_threads for slot in many] == [1, 1, 1]


def test_a_wish_is_placed_as_written() -> None:
    wish = StageWish(node="b", device="cuda:1", layers=(0, 12), num_threads=5)
    (slot,) = wanted_workers(settings(pipelines=((wish,),)), nodes(a="cpu", b="cuda:0 cuda:1"))
    assert slot == WorkerSlot(
        worker="b/stage-0.0",
        pipeline="0",
        stage=0,
        node="b",
        device="cuda:1",
        num_threads=5,
        layers=(0, 12),
    )


@pytest.mark.parametrize(
    ("wish", "explained"),
    [
        (StageWish(node="z"), r"node 'z'; nodes here: a"),
        (StageWish(node="a", device="cuda:7"), r"node a has no device 'cuda:7'; it has: cpu"),
        (StageWish(device="cuda:7"), r"no device 'cuda:7'"),
    ],
)
def test_a_place_that_is_not_there_is_refused_with_those_that_are(
    wish: StageWish, explained: str
) -> None:
    with pytest.raises(InvalidPlan, match=explained):
        wanted_workers(settings(pipelines=((wish,),)), nodes(a="cpu"))


def test_more_stages_than_layers_are_refused() -> None:
    with pytest.raises(InvalidPlan, match="13 stages for 12 layers"):
        wanted_workers(settings(num_stages=13), nodes(a="cpu"))


def with_gpus(counts: dict[str, int]) -> dict[str, JoinNode]:
    """Nodes by name, each with so many GPUs."""
    texts = {name: " ".join(f"cuda:{i}" for i in range(count)) for name, count in counts.items()}
    return nodes(8, **texts)


machines = st.dictionaries(st.sampled_from("abcd"), st.integers(1, 3), min_size=1).map(with_gpus)


@given(machines, st.integers(1, NUM_LAYERS))
def test_stages_are_spread_evenly_and_in_order_over_all_devices(
    there: dict[str, JoinNode], num_stages: int
) -> None:
    slots = wanted_workers(settings(num_stages=num_stages), there)
    devices = [(name, device) for name, node in there.items() for device in node.devices]
    places = [devices.index((slot.node, slot.device)) for slot in slots]
    assert places == sorted(places)
    held = Counter(places)
    assert max(held.values()) - min(held[place] for place in range(len(devices))) <= 1
    assert len({slot.worker for slot in slots}) == num_stages
    assert [slot.stage for slot in slots] == list(range(num_stages))


# --- what they hold


@given(
    machines,
    st.integers(1, NUM_LAYERS),
    st.lists(st.floats(1e6, 1e12), min_size=NUM_LAYERS, max_size=NUM_LAYERS),
    st.integers(0, 50),
)
def test_any_plan_covers_the_model_once_and_checks(
    there: dict[str, JoinNode], num_stages: int, speeds: list[float], num_blocks: int
) -> None:
    wanted = settings(num_stages=num_stages, num_blocks=num_blocks)
    slots = wanted_workers(wanted, there)
    workers = {
        slot.worker: up(slot, speed=speed) for slot, speed in zip(slots, speeds, strict=False)
    }
    pipelines = plan_pipelines(wanted, slots, workers)
    check(Plan(epoch=1, model="demo", pipelines=pipelines), NUM_LAYERS)
    assert [(s.node, s.worker, s.device) for s in pipelines[0].stages] == [
        (slot.node, slot.worker, slot.device) for slot in slots
    ]
    assert pipelines[0].num_blocks <= (num_blocks or pipelines[0].num_blocks)


def test_layers_by_hand_are_kept_however_fast_the_devices_are() -> None:
    wishes = (StageWish(layers=(0, 11)), StageWish(layers=(11, 12)))
    wanted = settings(pipelines=(wishes,))
    slots = wanted_workers(wanted, nodes(a="cpu"))
    workers = {slots[0].worker: up(slots[0], speed=1e6), slots[1].worker: up(slots[1], speed=1e12)}
    (plan,) = plan_pipelines(wanted, slots, workers)
    assert [(stage.start, stage.end) for stage in plan.stages] == [(0, 11), (11, 12)]


def test_the_faster_device_gets_more_layers() -> None:
    wanted = settings()
    slots = wanted_workers(wanted, nodes(a="cpu", b="cpu"))
    workers = {slots[0].worker: up(slots[0], speed=1e9), slots[1].worker: up(slots[1], speed=1e10)}
    (plan,) = plan_pipelines(wanted, slots, workers)
    assert plan.stages[0].end < NUM_LAYERS // 2


def test_workers_that_share_a_device_share_its_memory() -> None:
    """20 MB each would do for either; the device has 20 MB for both."""
    wanted = settings(num_stages=1, memory_fraction=1.0)
    alone = wanted_workers(wanted, nodes(a="cpu"))
    assert plan_pipelines(wanted, alone, all_up(alone, memory_bytes=20 * MB))
    twice = settings(pipelines=((StageWish(),), (StageWish(),)), memory_fraction=1.0)
    slots = wanted_workers(twice, nodes(a="cpu"))
    with pytest.raises(Infeasible):
        plan_pipelines(twice, slots, all_up(slots, memory_bytes=20 * MB))
    assert len(plan_pipelines(twice, slots, all_up(slots, memory_bytes=40 * MB))) == 2


@pytest.mark.parametrize(("device", "fits"), [("cpu", False), ("cuda:0", True)])
def test_less_of_a_cpus_memory_is_taken_than_of_a_gpus(device: str, fits: bool) -> None:
    """15.2 MB are needed of 20: within nine tenths, not within half."""
    slots = wanted_workers(settings(), nodes(a=device))
    workers = all_up(slots, memory_bytes=20 * MB)
    if fits:
        assert plan_pipelines(settings(), slots, workers)[0].num_blocks >= 1000 // 16
        return
    with pytest.raises(Infeasible, match=r"0\.01 GB"):
        plan_pipelines(settings(), slots, workers)


def test_every_pipeline_of_the_file_gets_all_layers() -> None:
    wanted = settings(pipelines=((StageWish(node="a"),), (StageWish(node="b"), StageWish())))
    slots = wanted_workers(wanted, nodes(a="cpu", b="cpu"))
    plans = plan_pipelines(wanted, slots, all_up(slots))
    check(Plan(epoch=1, model="demo", pipelines=plans), NUM_LAYERS)
    assert [plan.id for plan in plans] == ["0", "1"]


def test_workers_that_share_a_device_count_with_the_best_that_one_of_them_measured() -> None:
    wanted = settings(num_stages=2)
    slots = wanted_workers(wanted, nodes(a="cpu"))
    slow = {slot.worker: up(slot, speed=1e9 / (1 + i)) for i, slot in enumerate(slots)}
    assert plan_pipelines(wanted, slots, slow) == plan_pipelines(wanted, slots, all_up(slots))


@pytest.mark.parametrize(("overhead_s", "first_layers"), [(0.0, 8), (10.0, 6)])
def test_the_more_a_layer_costs_to_start_the_less_the_head_weighs(
    overhead_s: float, first_layers: int
) -> None:
    wanted = settings(num_stages=2)
    heavy: dict[str, Any] = {
        "head_bytes": 4 * MB,
        "kv_bytes_per_token": 1,
        "batch": 1,
        "prefill_ratio": 0.0,
    }
    wanted = replace(wanted, cost=replace(wanted.cost, **heavy))
    slots = wanted_workers(wanted, nodes(a="cpu"))
    ups = {slot.worker: structs.replace(up(slot), layer_overhead_s=overhead_s) for slot in slots}
    (plan,) = plan_pipelines(wanted, slots, ups)
    assert plan.stages[0].end == first_layers
