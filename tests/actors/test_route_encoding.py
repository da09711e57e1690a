"""How KV travels on a way: by the setting, by what was measured, and never by a guess."""

from functools import partial
from typing import Any

import pytest

from actors.cluster_state import PipelineRecord
from actors.cluster_status import route_statuses
from actors.kernel.ref import Ref
from actors.messages import WorkerUp
from actors.placement import ServiceSettings
from actors.route_encoding import LinkRates, hops_between, route_encoding
from models.kv_encoding import KvEncoding
from scheduling.kv_transport import KvLayout, KvTransport
from scheduling.placement import Phase
from scheduling.plan import NodeId, PipelineId, PipelinePlan, StagePlan, WorkerId
from tests.actors.wanted import wanted_service

LAYOUT = KvLayout(block_tokens=16, head_dim=128, itemsize=2)
SLOW, FAST = 1e8, 1e12


def plan(name: str, node: str, phase: Phase, *ranges: tuple[int, int]) -> PipelinePlan:
    return PipelinePlan(
        id=PipelineId(name),
        stages=tuple(
            StagePlan(
                stage=number,
                node=NodeId(node),
                worker=WorkerId(f"{node}/{name}.{number}"),
                device="cpu",
                start=start,
                end=end,
            )
            for number, (start, end) in enumerate(ranges)
        ),
        num_blocks=10,
        block_tokens=16,
        phase=phase,
    )


PREFILL = plan("0", "a", "prefill", (0, 4), (4, 8))
DECODE = plan("1", "b", "decode", (0, 2), (2, 8))
BESIDE = plan("2", "a", "decode", (0, 8))
PLANS = (PREFILL, DECODE, BESIDE)


def workers(bytes_per_s: float = 1e12) -> dict[str, WorkerUp]:
    return {
        stage.worker: WorkerUp(
            worker=stage.worker,
            ref=Ref(address="tcp://127.0.0.1:1", incarnation=1, name="stage"),
            pid=1,
            device="cpu",
            device_name="cpu",
            memory_bytes=1,
            flops_per_s=1.0,
            bytes_per_s=bytes_per_s,
            layer_overhead_s=0.0,
        )
        for found in PLANS
        for stage in found.stages
    }


def settings(asked: KvTransport, **changes: Any) -> ServiceSettings:
    return wanted_service(8, **{"kv_transport": asked, "kv_layout": LAYOUT, **changes})


def over(rate: float | None) -> LinkRates:
    return lambda one, other: rate


def test_kv_goes_between_the_stages_that_have_layers_in_common() -> None:
    found = [(a.stage, b.stage) for a, b in hops_between(PREFILL, DECODE)]
    assert found == [(0, 0), (0, 1), (1, 1)]


@pytest.mark.parametrize("asked", ["none", "int8", "int4"])
def test_what_is_asked_for_by_name_is_done_whatever_was_measured(asked: KvEncoding) -> None:
    for rate in (None, SLOW, FAST):
        assert route_encoding(settings(asked), {}, over(rate), PREFILL, DECODE) == asked


@pytest.mark.parametrize(("rate", "encoding"), [(SLOW, "int8"), (FAST, "none"), (None, "none")])
def test_auto_encodes_over_a_slow_link_that_was_measured(
    rate: float | None, encoding: KvEncoding
) -> None:
    assert route_encoding(settings("auto"), workers(), over(rate), PREFILL, DECODE) == encoding


def test_auto_counts_a_way_inside_a_node_as_fast_however_slow_its_links_to_others_are() -> None:
    found = [
        route_encoding(settings("auto"), workers(1e11), over(SLOW), PREFILL, to)
        for to in (DECODE, BESIDE)
    ]
    assert found == ["int8", "none"]


def test_auto_encodes_nothing_on_devices_that_would_take_longer_for_it_than_the_link() -> None:
    assert route_encoding(settings("auto"), workers(1e8), over(SLOW), PREFILL, DECODE) == "none"


def test_auto_encodes_nothing_while_a_worker_of_the_way_is_not_up() -> None:
    some = workers()
    del some[DECODE.stages[0].worker]
    assert route_encoding(settings("auto"), some, over(SLOW), PREFILL, DECODE) == "none"
    without = settings("auto", kv_layout=None)
    assert route_encoding(without, workers(), over(SLOW), PREFILL, DECODE) == "none"


def test_a_way_of_which_nothing_else_is_known_is_told_for_its_encoding() -> None:
    records = [PipelineRecord(plan=found, wanted=found) for found in PLANS]
    for asked, told in (("int4", ["1", "2"]), ("none", [])):
        chosen = settings(asked)  # type: ignore[arg-type]
        encoding = partial(route_encoding, chosen, workers(), over(None))
        routes = route_statuses(records, (), over(None), encoding)
        assert [route.decode for route in routes] == told
        assert {route.encoding for route in routes} <= {"int4"}
