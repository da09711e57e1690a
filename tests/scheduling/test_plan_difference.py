"""The way from one plan to another leads there, from nowhere else, and is empty where it should."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduling.errors import InvalidPlan
from scheduling.plan import NodeId, PipelineId, PipelinePlan, Plan, StagePlan, WorkerId
from scheduling.plan_difference import apply, difference

NUM_LAYERS = 6


def pipeline(name: str, cut: int, num_blocks: int = 8) -> PipelinePlan:
    ranges = ((0, cut), (cut, NUM_LAYERS))
    stages = tuple(
        StagePlan(
            stage=number,
            node=NodeId("a"),
            worker=WorkerId(f"a/{name}.{number}"),
            device="cpu",
            start=start,
            end=end,
        )
        for number, (start, end) in enumerate(ranges)
    )
    return PipelinePlan(id=PipelineId(name), stages=stages, num_blocks=num_blocks, block_tokens=4)


pipelines = st.builds(
    pipeline,
    st.sampled_from("abcd"),
    st.integers(1, NUM_LAYERS - 1),
    st.sampled_from((8, 16)),
)
plans = st.builds(
    Plan,
    epoch=st.integers(0, 9),
    model=st.just("m"),
    pipelines=st.lists(pipelines, max_size=4, unique_by=lambda p: p.id).map(tuple),
)


@given(plans, plans)
def test_a_difference_leads_from_the_one_plan_to_the_other(a: Plan, b: Plan) -> None:
    assert apply(difference(a, b), a) == b


@given(plans)
def test_a_plan_does_not_differ_from_itself(a: Plan) -> None:
    assert difference(a, a).is_empty


@given(plans, plans)
def test_each_pipeline_is_added_changed_removed_or_left_alone(a: Plan, b: Plan) -> None:
    found = difference(a, b)
    touched = [p.id for p in (*found.added, *found.changed)] + [*found.removed]
    assert len(touched) == len({*touched})
    for old in a.pipelines:
        assert old.id in touched or old in b.pipelines


A = Plan(epoch=1, model="m", pipelines=(pipeline("a", 2), pipeline("b", 3)))


def test_two_models_have_no_difference_and_none_leads_to_another_model() -> None:
    other = replace(A, model="n")
    with pytest.raises(InvalidPlan, match="model: expected 'm' in both plans, got 'n'"):
        difference(A, other)
    with pytest.raises(InvalidPlan, match="model: expected 'm', got 'n'"):
        apply(difference(A, A), other)


@pytest.mark.parametrize(
    ("to", "start", "complaint"),
    [
        ((pipeline("a", 2),), (pipeline("a", 2),), "'b': expected it in the plan"),
        ((pipeline("a", 2), pipeline("b", 4)), (pipeline("a", 2),), "'b': expected it"),
        (
            (*A.pipelines, pipeline("c", 2)),
            (*A.pipelines, pipeline("c", 2)),
            "'c': expected none to be there already",
        ),
        (A.pipelines, (pipeline("a", 2),), r"pipelines: expected \['a', 'b'\], got \['a'\]"),
    ],
)
def test_a_difference_is_refused_by_a_plan_that_it_was_not_taken_from(
    to: tuple[PipelinePlan, ...], start: tuple[PipelinePlan, ...], complaint: str
) -> None:
    change = difference(A, replace(A, pipelines=to))
    with pytest.raises(InvalidPlan, match=complaint):
        apply(change, replace(A, pipelines=start))
