"""What the planner is told of a cluster: the best measurement of each device that is here."""

import pytest

from actors.cluster_state import PipelineRecord
from actors.kernel.ref import Ref
from actors.membership import Leaving, Members, NodeLost, Starting
from actors.messages import READY, RECOVERING, JoinNode, WorkerUp
from actors.placement import WorkerSlot
from actors.situation import Measured, not_calm, situation_of, unmeasured
from scheduling.change_cost import AutoPolicy
from scheduling.plan import NodeId, PipelineId, PipelinePlan, StagePlan, WorkerId
from scheduling.roofline import LinkRate
from tests.actors.emulated_pipeline import NUM_LAYERS
from tests.actors.test_replanning import wanted


def ref(name: str) -> Ref:
    return Ref(address=name, incarnation=1, name="stage", generation=1)


def joined(*names: str, devices: tuple[str, ...] = ("cpu",), num_cores: int = 8) -> Members:
    members = Members()
    for name in names:
        members += JoinNode(
            node=name, ref=ref(name), devices=devices, num_cores=num_cores, version="1"
        )
    return members


def with_worker(
    members: Members, worker: str, *, threads: int = 8, device: str = "cpu", speed: float = 1e12
) -> Members:
    node = worker.partition("/")[0]
    members += Starting(
        WorkerSlot(
            worker=worker,
            pipeline="",
            stage=0,
            node=node,
            device=device,
            num_threads=threads,
            layers=None,
        )
    )
    return members + WorkerUp(
        worker=worker,
        ref=ref(worker),
        pid=1,
        device=device,
        device_name="emulated",
        memory_bytes=int(1e9),
        flops_per_s=speed,
        bytes_per_s=1e9,
        layer_overhead_s=0.0,
    )


def plan_over(*workers: str) -> PipelinePlan:
    cuts = [number * NUM_LAYERS // len(workers) for number in range(len(workers) + 1)]
    return PipelinePlan(
        id=PipelineId("0"),
        stages=tuple(
            StagePlan(
                stage=number,
                node=NodeId(name.partition("/")[0]),
                worker=WorkerId(name),
                device="cpu",
                start=cuts[number],
                end=cuts[number + 1],
            )
            for number, name in enumerate(workers)
        ),
        num_blocks=10,
        block_tokens=4,
    )


def test_the_best_measurement_of_a_device_outlives_its_worker_but_not_its_node() -> None:
    one = with_worker(joined("a"), "a/0", speed=2e12)
    measured = Measured().after(one)
    worse = with_worker(joined("a"), "a/1", speed=1e12)
    measured = measured.after(worse)
    assert measured.devices["a", "cpu"].flops_per_s == 2e12
    assert measured.after(worse + NodeLost("a")).devices == {}


def test_a_link_is_known_both_ways_while_both_its_ends_are_here() -> None:
    rate = LinkRate(bytes_per_s=1e6, latency_s=0.1)
    measured = Measured().with_link("b", "a", rate)
    members = joined("a", "b")
    (ends, found), *_ = measured.after(members).links.items()
    assert ends == ("a", "b")
    assert found.bytes_per_s == pytest.approx(1e6, rel=0.03)
    assert found.latency_s == pytest.approx(0.1, rel=0.03)
    assert measured.after(members + NodeLost("b")).links == {}


def test_devices_without_a_worker_are_named_until_one_has_told() -> None:
    members = with_worker(joined("a", "b", devices=("cpu", "cuda:0")), "a/0")
    assert unmeasured(members, Measured().after(members)) == (
        ("a", "cuda:0"),
        ("b", "cpu"),
        ("b", "cuda:0"),
    )
    members += Leaving("b")
    assert unmeasured(members, Measured().after(members)) == (("a", "cuda:0"),)


def test_threads_that_were_shared_out_are_counted_together() -> None:
    members = joined("a")
    for worker in ("a/0", "a/1"):
        members = with_worker(members, worker, threads=4)
    settings = wanted(AutoPolicy())
    measured = Measured().after(members)
    two = situation_of(settings, members, [plan_over("a/0", "a/1")], measured)
    one = situation_of(settings, members, [plan_over("a/0")], measured)
    assert (two.devices[0].flops_per_s, one.devices[0].flops_per_s) == (2e12, 1e12)
    assert two.devices[0].memory_bytes == int(0.5e9)  # the share of a CPU's that stages may take


def test_a_node_that_leaves_is_not_counted_on() -> None:
    members = with_worker(with_worker(joined("a", "b"), "a/0"), "b/0")
    measured = Measured().after(members)
    settings = wanted(AutoPolicy())
    found = situation_of(settings, members + Leaving("b"), [plan_over("a/0")], measured)
    assert [device.node for device in found.devices] == ["a"]


def test_no_plan_is_thought_of_while_something_is_under_way() -> None:
    members, plan = joined("a"), plan_over("a/0")
    calm = PipelineRecord(plan=plan, wanted=plan, state=READY)
    assert not_calm([calm], members) == ""
    assert "no plan" in not_calm([], members)
    lost = PipelineRecord(plan=plan, wanted=plan, state=RECOVERING)
    assert "recovering" in not_calm([lost], members)
    busy = PipelineRecord(plan=plan, wanted=plan, state=READY, is_busy=True)
    assert "changing" in not_calm([busy], members)
    wished = PipelineRecord(plan=plan, wanted=plan_over("a/0", "a/1"), state=READY)
    assert "changing" in not_calm([wished], members)
    releasing = PipelineRecord(plan=plan, wanted=plan, state=READY, phase="release")
    assert "release" in not_calm([releasing], members)
    assert "leaving" in not_calm([calm], members + Leaving("a"))
