import json
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduling.errors import InvalidPlan
from scheduling.plan import (
    NodeId,
    PipelineId,
    PipelinePlan,
    Plan,
    StagePlan,
    WorkerId,
    check,
    parse_layers,
)

NUM_LAYERS = 12


def make_stage(stage: int, start: int, end: int, *, worker: str | None = None) -> StagePlan:
    return StagePlan(
        stage=stage,
        node=NodeId("here"),
        worker=WorkerId(worker or f"worker-{stage}"),
        device="cpu",
        start=start,
        end=end,
    )


def make_pipeline(*stages: StagePlan, name: str = "p0") -> PipelinePlan:
    return PipelinePlan(id=PipelineId(name), stages=stages, num_blocks=100, block_tokens=16)


def make_plan(*pipelines: PipelinePlan) -> Plan:
    return Plan(epoch=3, model="demo", pipelines=pipelines)


GOOD = make_plan(make_pipeline(make_stage(0, 0, 5), make_stage(1, 5, 12)))


def test_a_plan_that_covers_all_layers_in_order_passes() -> None:
    check(GOOD, NUM_LAYERS)


def test_a_plan_without_pipelines_passes() -> None:
    check(make_plan(), NUM_LAYERS)


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (
            make_plan(make_pipeline(make_stage(0, 0, 5), make_stage(1, 6, 12))),
            "'p0': a gap at 6:12, expected a start of 5, got 6",
        ),
        (
            make_plan(make_pipeline(make_stage(0, 0, 5), make_stage(1, 4, 12))),
            "'p0': an overlap at 4:12, expected a start of 5, got 4",
        ),
        (
            make_plan(make_pipeline(make_stage(0, 0, 0), make_stage(1, 0, 12))),
            "'p0': an empty stage 0:0",
        ),
        (make_plan(make_pipeline(make_stage(0, 0, 5))), "expected layers 0:12, got 0:5"),
        (make_plan(make_pipeline(make_stage(0, 0, 13))), "expected layers 0:12, got 0:13"),
        (make_plan(make_pipeline()), "expected layers 0:12, got 0:0"),
        (
            make_plan(make_pipeline(make_stage(1, 0, 5), make_stage(0, 5, 12))),
            r"expected stages in order from 0, got \[1, 0\]",
        ),
        (
            make_plan(
                make_pipeline(make_stage(0, 0, 5, worker="w"), make_stage(1, 5, 12, worker="w"))
            ),
            "worker 'here/w': expected one",
        ),
        (
            make_plan(
                make_pipeline(make_stage(0, 0, 12, worker="v")),
                make_pipeline(make_stage(0, 0, 12, worker="w")),
            ),
            "pipeline 'p0': expected one",
        ),
        (
            make_plan(replace(GOOD.pipelines[0], num_blocks=0)),
            "expected 1 or more blocks of 1 or more tokens, got 0 of 16",
        ),
        (replace(GOOD, epoch=-1), "epoch: expected 0 or more, got -1"),
    ],
)
def test_a_plan_that_contradicts_itself_is_refused_with_a_sentence(
    plan: Plan, message: str
) -> None:
    with pytest.raises(InvalidPlan, match=message):
        check(plan, NUM_LAYERS)


@given(cuts=st.sets(st.integers(1, NUM_LAYERS - 1)))
def test_layers_typed_as_ranges_are_read_back(cuts: set[int]) -> None:
    edges = [0, *sorted(cuts), NUM_LAYERS]
    ranges = tuple(pairwise(edges))
    text = ",".join(f"{start}:{end}" for start, end in ranges)
    assert parse_layers(text, NUM_LAYERS) == ranges


def test_spaces_between_ranges_do_not_matter() -> None:
    assert parse_layers("0:5, 5:12", NUM_LAYERS) == ((0, 5), (5, 12))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "layers '': expected start:end, as in 0:5, got ''"),
        ("0-5,5-12", "got '0-5'"),
        ("0:5,", "got ''"),
        (":12", "got ':12'"),
        ("-1:12", "got '-1:12'"),
        ("0:1²", "got '0:1²'"),
        ("0:" + "9" * 5000, "expected start:end"),
        ("0:5,6:12", "layers '0:5,6:12': a gap at 6:12, expected a start of 5, got 6"),
        ("0:6,5:12", "an overlap at 5:12"),
        ("0:5,5:5,5:12", "an empty stage 5:5"),
        ("0:5,5:11", "expected layers 0:12, got 0:11"),
    ],
)
def test_layers_that_do_not_cover_the_model_are_refused(text: str, message: str) -> None:
    with pytest.raises(InvalidPlan, match=message):
        parse_layers(text, NUM_LAYERS)


def test_a_plan_comes_back_whole_from_json() -> None:
    assert Plan.from_dict(json.loads(json.dumps(GOOD.to_dict()))) == GOOD
    assert Plan.from_dict(GOOD.to_dict()) == GOOD


def changed(path: tuple[Any, ...], value: Any) -> dict[str, Any]:
    data: Any = json.loads(json.dumps(GOOD.to_dict()))
    place = data
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return data  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({}, r"plan: expected the keys .*epoch.*got \[\]"),
        (changed(("author",), "me"), "plan: expected the keys"),
        (changed(("epoch",), "3"), "plan.epoch: expected .*int.*, got '3'"),
        (changed(("epoch",), True), "plan.epoch"),
        (changed(("pipelines", 0), 5), "pipeline: expected the keys .*got int"),
        (changed(("pipelines", 0, "num_blocks"), 1.5), "pipeline.num_blocks: .*got 1.5"),
        (changed(("pipelines", 0, "stages", 1, "device"), None), "stage.device: .*got None"),
    ],
)
def test_data_that_is_no_plan_is_refused(data: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidPlan, match=message):
        Plan.from_dict(data)
