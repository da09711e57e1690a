"""A running service as a problem: layouts there and back, predictions, and proposals."""

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduling.goal import Limits
from scheduling.live import (
    Chain,
    Layout,
    LiveProblem,
    MeasuredDevice,
    Placed,
    Situation,
    advise,
    merged,
    usual_workload,
)
from scheduling.nearness import rounded
from scheduling.roofline import LinkRate, ModelShape, model_cost
from scheduling.solvers.interface import Budget

NUM_LAYERS = 6
SHAPE = ModelShape(
    num_layers=NUM_LAYERS,
    hidden=256,
    num_heads=4,
    num_kv_heads=4,
    head_dim=64,
    intermediate=1024,
    vocab=500,
)
COST = model_cost(SHAPE, num_kv_tokens=64)


def budget() -> Budget:
    ticks = iter(range(10**9))
    return Budget(seconds=1.0, clock=lambda: next(ticks) * 1e-3)


def device(node: str, name: str = "cpu", speed: float = 1.0) -> MeasuredDevice:
    return MeasuredDevice(
        node=node,
        device=name,
        memory_bytes=10**9,
        flops_per_s=1e12 * speed,
        bytes_per_s=1e9 * speed,
        layer_overhead_s=1e-5,
    )


def situation(layout: Layout, *devices: MeasuredDevice) -> Situation:
    return Situation(
        devices=devices,
        links=(),
        layout=layout,
        shape=SHAPE,
        workload=usual_workload(COST, 64),
        limits=Limits(max_running=8, max_step_tokens=16, max_model_len=64, memory_fraction=1.0),
    )


def chain_over(places: list[tuple[str, str]], cuts: set[int]) -> Chain:
    bounds = [0, *sorted(cuts), NUM_LAYERS]
    return tuple(
        Placed(*places[i % len(places)], start, end)
        for i, (start, end) in enumerate(pairwise(bounds))
    )


chains = st.builds(
    chain_over,
    st.lists(st.sampled_from([("a", "cpu"), ("b", "cuda:0"), ("b", "cuda:1")]), min_size=1),
    st.sets(st.integers(1, NUM_LAYERS - 1)),
)


@given(st.lists(chains, min_size=1, max_size=3))
def test_every_layout_that_serves_is_a_placement_and_comes_back_as_it_was(
    pipelines: list[Chain],
) -> None:
    layout = tuple(pipelines)
    devices = [device("a"), device("b", "cuda:0"), device("b", "cuda:1")]
    live = LiveProblem(situation(layout, *devices))
    assert live.layout(live.placement(layout)) == merged(layout)


@given(chains)
def test_merging_keeps_who_has_which_layer(pipeline: Chain) -> None:
    (joined,) = merged((pipeline,))

    def owners(stages: Chain) -> list[tuple[str, str]]:
        return [(s.node, s.device) for s in stages for _ in range(s.start, s.end)]

    assert owners(joined) == owners(pipeline)
    assert all((a.node, a.device) != (b.node, b.device) for a, b in pairwise(joined))


@settings(deadline=None, max_examples=15)  # a search each
@given(chains)
def test_a_proposal_is_never_predicted_to_do_less_than_what_serves(pipeline: Chain) -> None:
    devices = [device("a"), device("b", "cuda:0", 2.0), device("b", "cuda:1", 0.5)]
    advice = advise(situation((pipeline,), *devices), budget())
    assert advice.proposed is not None
    if advice.current is not None:
        assert advice.proposed.tokens_per_s >= advice.current.tokens_per_s * (1 - 1e-9)


def test_a_node_that_nobody_uses_is_proposed() -> None:
    alone = (chain_over([("a", "cpu")], set()),)
    advice = advise(situation(alone, device("a"), device("b")), budget())
    assert advice.current is not None
    assert advice.proposed is not None
    assert {s.node for chain in advice.proposed.layout for s in chain} == {"a", "b"}
    assert advice.proposed.tokens_per_s > 1.5 * advice.current.tokens_per_s


def test_stages_that_share_a_device_apart_have_a_share_each() -> None:
    twice = (chain_over([("a", "cpu")], set()),) * 2
    once = twice[:1]
    one = advise(situation(once, device("a")), budget()).current
    two = advise(situation(twice, device("a")), budget()).current
    assert one is not None
    assert two is not None
    assert two.pipeline_tokens_per_s[0] < one.pipeline_tokens_per_s[0]


def test_a_device_that_is_shared_out_is_proposed_as_a_whole_where_that_serves_more() -> None:
    twice = (chain_over([("a", "cpu")], set()),) * 2
    slow = replace(device("a"), layer_overhead_s=0.01)
    tight = replace(situation(twice, slow), limits=Limits(max_running=8, max_model_len=64))
    advice = advise(tight, budget())
    assert advice.current is not None
    assert advice.proposed is not None
    assert advice.proposed.tokens_per_s >= advice.current.tokens_per_s
    short = replace(device("a"), memory_bytes=int(SHAPE.total_bytes * 1.5))
    advice = advise(situation(twice, short), budget())
    assert advice.current is None  # a half of its memory does not hold the model
    assert advice.proposed is not None
    assert len(advice.proposed.layout) == 1


def test_a_node_may_be_called_as_the_site_would_be() -> None:
    layout = (chain_over([("site", "cpu")], set()),)
    assert advise(situation(layout, device("site")), budget()).current is not None


def test_a_device_that_nothing_is_known_of_leaves_a_proposal_without_a_comparison() -> None:
    layout = (chain_over([("lost", "cpu")], set()),)
    advice = advise(situation(layout, device("a")), budget())
    assert advice.current is None
    assert advice.proposed is not None
    assert "nothing is known of cpu of node lost" in advice.reason


def test_where_nothing_was_measured_or_nothing_fits_the_reason_is_told() -> None:
    layout = (chain_over([("a", "cpu")], set()),)
    assert "no device" in advise(situation(layout), budget()).reason
    tiny = replace(device("a"), memory_bytes=1000)
    advice = advise(situation(layout, tiny), budget())
    assert advice.proposed is None
    assert advice.reason


def test_a_slow_link_that_was_measured_counts() -> None:
    layout = (chain_over([("a", "cpu"), ("b", "cpu")], {3}),)
    near = situation(layout, device("a"), device("b"))
    far = replace(near, links=(("a", "b", LinkRate(bytes_per_s=1e6, latency_s=0.5)),))
    one, other = (advise(found, budget()).current for found in (near, far))
    assert one is not None
    assert other is not None
    assert other.tokens_per_s < one.tokens_per_s / 2


@given(st.floats(1e-9, 1e18), st.floats(0.999, 1.001))
def test_rounding_is_within_a_fortieth_and_keeps_order(value: float, factor: float) -> None:
    assert rounded(value) == pytest.approx(value, rel=0.026)
    assert (rounded(value * factor) >= rounded(value)) or factor < 1
    assert rounded(rounded(value)) == pytest.approx(rounded(value))


@given(st.integers(2, 100_000), st.integers(1, 4096), st.floats(0, 8))
def test_the_usual_requests_fit_the_longest_that_is_served(
    max_model_len: int, context: int, ratio: float
) -> None:
    load = usual_workload(replace(COST, context=context, prefill_ratio=ratio), max_model_len)
    assert load.prompts[0] + load.outputs[0] <= max_model_len
