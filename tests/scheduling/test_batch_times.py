import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduling.completion_routing import (
    BatchTimes,
    PipelineFit,
    PredictedCompletion,
    RandomChoice,
    RoundRobin,
    RoutingPolicy,
    ShortestQueue,
    fit_batch_times,
)
from scheduling.errors import Infeasible
from scheduling.routing import PipelineLoad


def load(name: str, *, queued: int = 0, running: int = 0, free: int | None = None) -> PipelineLoad:
    return PipelineLoad(
        pipeline=name, num_queued_tokens=queued, num_running=running, num_free_tokens=free
    )


def fit(speed: float = 1.0, kv_tokens: int = 10_000) -> PipelineFit:
    times = BatchTimes(
        prefill=(0.01 / speed, 4e-4 / speed, 1e-9 / speed),
        decode=(0.03 / speed, 1e-4 / speed, 1e-7 / speed),
    )
    return PipelineFit(times=times, kv_tokens=kv_tokens)


def predicted(**fits: PipelineFit) -> PredictedCompletion:
    return PredictedCompletion(fits, usual_prompt_tokens=500, usual_output_tokens=100)


POLICIES: list[RoutingPolicy] = [
    RoundRobin(),
    ShortestQueue(),
    RandomChoice(lambda count: count - 1),
    predicted(a=fit(), b=fit()),
]


@pytest.mark.parametrize("policy", POLICIES)
def test_every_policy_picks_one_of_the_pipelines_and_none_of_none(policy: RoutingPolicy) -> None:
    assert policy([], num_prompt_tokens=10) is None
    for _ in range(3):
        assert policy([load("b"), load("a")], num_prompt_tokens=10) in ("a", "b")


def test_round_robin_takes_turns_and_goes_on_when_one_is_gone() -> None:
    policy = RoundRobin()
    loads = [load("a"), load("b"), load("c")]
    assert [policy(loads, num_prompt_tokens=1) for _ in range(4)] == ["a", "b", "c", "a"]
    assert policy([load("a"), load("c")], num_prompt_tokens=1) == "c"


def test_the_shortest_queue_counts_sequences_first() -> None:
    policy = ShortestQueue()
    assert (
        policy([load("a", running=2), load("b", running=1, queued=9)], num_prompt_tokens=1) == "b"
    )


def test_a_fast_pipeline_is_taken_until_what_it_has_outweighs_its_speed() -> None:
    policy = predicted(fast=fit(4.0), slow=fit(1.0))
    assert policy([load("fast", queued=2000), load("slow")], num_prompt_tokens=500) == "fast"
    assert policy([load("fast", queued=90_000), load("slow")], num_prompt_tokens=500) == "slow"


def test_a_pipeline_full_of_kv_is_left_for_one_with_room() -> None:
    policy = predicted(a=fit(), b=fit())
    loads = [load("a", running=3, free=0), load("b", running=3, free=9_000)]
    assert policy(loads, num_prompt_tokens=500) == "b"


def test_a_prompt_goes_where_it_fits_at_all() -> None:
    policy = predicted(a=fit(9.0, kv_tokens=100), b=fit())
    assert policy([load("a"), load("b")], num_prompt_tokens=500) == "b"
    with pytest.raises(Infeasible, match="the largest has 100 tokens"):
        policy([load("a")], num_prompt_tokens=500)


def test_a_pipeline_without_a_fit_is_refused() -> None:
    with pytest.raises(Infeasible, match="profile it first"):
        predicted(a=fit())([load("b")], num_prompt_tokens=1)


@given(queued=st.integers(0, 10**6), more=st.integers(1, 10**6), free=st.integers(0, 10_000))
def test_more_work_never_finishes_sooner(queued: int, more: int, free: int) -> None:
    policy = predicted(a=fit())
    before = policy.predict_s(load("a", queued=queued, free=free), 100)
    assert policy.predict_s(load("a", queued=queued + more, free=free), 100) > before
    assert policy.predict_s(load("a", queued=queued, free=free // 2), 100) >= before


def test_a_profile_gives_back_the_times_it_was_made_of() -> None:
    truth = fit().times
    prefills = [
        (n * size, n * size**2, truth.prefill_s(n * size, n * size**2))
        for n in (1, 2, 4)
        for size in (64, 512, 2048)
    ]
    decodes = [
        (b, b * context, truth.decode_s(b, b * context))
        for b in (1, 8, 64)
        for context in (100, 1000)
    ]
    found = fit_batch_times(prefills, decodes)
    np.testing.assert_allclose(found.prefill, truth.prefill, rtol=1e-6)
    np.testing.assert_allclose(found.decode, truth.decode, rtol=1e-6)
    assert found.relative_error < 1e-9


def test_no_coefficient_is_fitted_below_zero() -> None:
    rows = [(1.0, 1.0, 3.0), (2.0, 4.0, 2.0), (3.0, 9.0, 1.0), (4.0, 16.0, 0.5)]
    found = fit_batch_times(rows, rows)
    assert min(*found.prefill, *found.decode) >= 0.0
    assert found.relative_error > 0.1


def test_too_small_a_profile_is_refused() -> None:
    rows = [(1.0, 1.0, 1.0)] * 3
    with pytest.raises(Infeasible, match="prefill profile: expected 3 or more rows"):
        fit_batch_times(rows[:2], rows)
    with pytest.raises(Infeasible, match="decode profile"):
        fit_batch_times(rows, [(1.0, 1.0, 0.0)] * 3)
