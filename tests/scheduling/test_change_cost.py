"""What a change costs, and when it is worth that."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduling.change_cost import AutoPolicy, ChangeCost, cost_of_change, why_not_worth
from scheduling.plan import NodeId, PipelineId, PipelinePlan, StagePlan, WorkerId
from scheduling.roofline import ModelShape, model_cost

COST = model_cost(
    ModelShape(
        num_layers=6,
        hidden=256,
        num_heads=4,
        num_kv_heads=4,
        head_dim=64,
        intermediate=1024,
        vocab=500,
    ),
    num_kv_tokens=64,
)
LAYER = COST.layer_bytes[0]
BLOCKS = 10 * 4 * COST.kv_bytes_per_token


def pipeline(*stages: tuple[str, str, int, int], name: str = "0") -> PipelinePlan:
    return PipelinePlan(
        id=PipelineId(name),
        stages=tuple(
            StagePlan(
                stage=number,
                node=NodeId(node),
                worker=WorkerId(worker),
                device="cpu",
                start=start,
                end=end,
            )
            for number, (node, worker, start, end) in enumerate(stages)
        ),
        num_blocks=10,
        block_tokens=4,
    )


ONE = pipeline(("a", "a/0", 0, 6))
TWO = pipeline(("a", "a/0", 0, 4), ("b", "b/0", 4, 6))


def cost(old: list[PipelinePlan], new: list[PipelinePlan]) -> ChangeCost:
    return cost_of_change(
        old,
        new,
        COST,
        load_bytes_per_s=1e6,
        bandwidth=lambda one, other: 1e5,
        start_s=3.0,
        pause_s=0.5,
    )


def test_a_worker_loads_what_it_lacks_and_takes_over_its_layers_kv() -> None:
    found = cost([ONE], [TWO])
    assert found.load_bytes == 2 * LAYER
    assert found.copy_bytes == 2 * BLOCKS
    assert found.pause_s == 0.5
    assert found.seconds == pytest.approx(2 * LAYER / 1e6 + 3.0 + 2 * BLOCKS / 1e5 + 0.5)


def test_what_stays_costs_nothing() -> None:
    assert cost([TWO], [TWO]) == ChangeCost(load_bytes=0, copy_bytes=0, seconds=0.0, pause_s=0.0)


def test_a_pipeline_that_is_added_pauses_nobody_and_one_that_is_removed_does() -> None:
    added = pipeline(("b", "b/0", 0, 6), name="1")
    assert cost([ONE], [ONE, added]).pause_s == 0.0
    assert cost([ONE], [ONE, added]).copy_bytes == 0
    assert cost([ONE, added], [ONE]).pause_s == 0.5


@given(st.integers(0, 6), st.integers(0, 6))
def test_bytes_are_those_of_layers_that_change_hands(before: int, after: int) -> None:
    def cut(at: int) -> PipelinePlan:
        stages = (("a", "a/0", 0, at), ("b", "b/0", at, 6))
        return pipeline(*(stage for stage in stages if stage[2] < stage[3]))

    found = cost([cut(before)], [cut(after)])
    assert found.load_bytes == abs(before - after) * LAYER
    assert found.copy_bytes == abs(before - after) * BLOCKS


POLICY = AutoPolicy(is_on=True, horizon_s=60, interval_s=30, min_gain=0.1)
CHEAP = ChangeCost(load_bytes=0, copy_bytes=0, seconds=5.0, pause_s=0.5)


@pytest.mark.parametrize(
    ("current", "proposed", "policy", "change", "told"),
    [
        (100.0, 200.0, POLICY, CHEAP, ""),
        (0.0, 1.0, POLICY, CHEAP, ""),
        (100.0, 100.0, POLICY, CHEAP, "nothing better"),
        (100.0, 109.0, POLICY, CHEAP, "below the least"),
        (100.0, 200.0, replace(POLICY, horizon_s=5.0), CHEAP, "gain 0 tokens"),
        (100.0, 120.0, POLICY, replace(CHEAP, seconds=20.0, pause_s=20.0), "lose 2000"),
    ],
)
def test_a_change_is_made_for_a_gain_that_outweighs_it(
    current: float, proposed: float, policy: AutoPolicy, change: ChangeCost, told: str
) -> None:
    why = why_not_worth(policy, current, proposed, change)
    assert (told in why) if told else why == ""


rates = st.floats(0, 1e6)


@given(rates, rates, st.floats(0, 1e3), st.floats(0, 1e3), st.floats(0, 10))
def test_a_longer_horizon_and_a_smaller_least_gain_never_stand_against_a_change(
    current: float, proposed: float, seconds: float, horizon_s: float, min_gain: float
) -> None:
    change = ChangeCost(load_bytes=0, copy_bytes=0, seconds=seconds, pause_s=min(seconds, 1.0))
    policy = replace(POLICY, horizon_s=horizon_s, min_gain=min_gain)
    if not why_not_worth(policy, current, proposed, change):
        easier = replace(policy, horizon_s=horizon_s * 2, min_gain=min_gain / 2)
        assert not why_not_worth(easier, current, proposed, change)
        assert proposed > current


@pytest.mark.parametrize("name", ["horizon_s", "interval_s", "min_gain"])
@pytest.mark.parametrize("value", [-1.0, float("inf"), float("nan")])
def test_a_policy_out_of_bounds_is_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=name):
        AutoPolicy(**{name: value})  # type: ignore[arg-type]
