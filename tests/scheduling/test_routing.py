"""Which pipeline a request goes to, by what it has before it and by its fitted times."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduling.batch_times import BatchTimes
from scheduling.routing import (
    USUAL,
    PipelineFit,
    PipelineLoad,
    UsualLengths,
    choose_pipeline,
    predicted_s,
)

LENGTHS = UsualLengths(500.0, 100.0)


def load(
    name: str,
    *,
    queued: int = 0,
    running: int = 0,
    resident: int = 0,
    free: int | None = None,
    fit: PipelineFit | None = None,
) -> PipelineLoad:
    return PipelineLoad(
        pipeline=name,
        num_queued_tokens=queued,
        num_running=running,
        num_resident_tokens=resident,
        num_free_tokens=free,
        fit=fit,
    )


def fit(speed: float = 1.0, kv_tokens: int = 10_000, max_running: int = 64) -> PipelineFit:
    times = BatchTimes(
        prefill=(0.01 / speed, 4e-4 / speed, 1e-9 / speed),
        decode=(0.03 / speed, 1e-4 / speed, 1e-7 / speed),
    )
    return PipelineFit(times=times, kv_tokens=kv_tokens, max_running=max_running)


def chosen(*loads: PipelineLoad, prompt: int = 500) -> str | None:
    return choose_pipeline(loads, num_prompt_tokens=prompt, usual=LENGTHS)


# --- without fits


def test_without_pipelines_there_is_no_choice() -> None:
    assert chosen() is None


def test_ties_go_to_the_lesser_id() -> None:
    assert chosen(load("b"), load("a")) == "a"
    assert chosen(load("b", fit=fit()), load("a", fit=fit())) == "a"


def test_fewer_queued_tokens_win() -> None:
    assert chosen(load("a", queued=500), load("b", queued=100)) == "b"


def test_fewer_running_sequences_win() -> None:
    assert chosen(load("a", running=3), load("b", running=2)) == "b"


def test_a_pipeline_without_free_blocks_comes_last() -> None:
    loads = [load("full", free=9), load("busy", queued=500, free=10), load("busier", queued=600)]
    assert chosen(*loads, prompt=10) == "busy"
    assert chosen(*loads[:1], prompt=10) == "full"


# --- by fits


def test_a_fast_pipeline_is_taken_until_what_it_has_outweighs_its_speed() -> None:
    fast, slow = fit(4.0, kv_tokens=10**6), fit(1.0, kv_tokens=10**6)
    assert chosen(load("fast", queued=2000, fit=fast), load("slow", fit=slow)) == "fast"
    assert chosen(load("fast", queued=90_000, fit=fast), load("slow", fit=slow)) == "slow"


def test_running_sequences_weigh_by_what_they_cost_in_that_pipeline() -> None:
    fast, slow = fit(4.0), fit(1.0)
    assert chosen(load("fast", running=6, fit=fast), load("slow", running=2, fit=slow)) == "fast"
    assert chosen(load("fast", running=60, fit=fast), load("slow", running=2, fit=slow)) == "slow"


def test_a_pipeline_full_of_kv_is_left_for_one_with_room() -> None:
    full = load("a", running=3, resident=10_000, fit=fit())
    assert chosen(full, load("b", running=3, resident=1_000, fit=fit())) == "b"


def test_a_pipeline_without_a_free_slot_is_left_for_one_that_is_slower() -> None:
    full = load("a", running=8, fit=fit(1.5, max_running=4))
    assert chosen(full, load("b", running=8, fit=fit(1.0))) == "b"


def test_a_prompt_goes_where_it_fits_at_all_or_to_the_best_of_those_that_refuse_it() -> None:
    small = load("a", fit=fit(9.0, kv_tokens=100))
    assert chosen(small, load("b", fit=fit())) == "b"
    assert chosen(small) == "a"


def test_a_pipeline_without_a_fit_counts_as_the_mean_of_the_others() -> None:
    slow, unknown, fast = load("a", fit=fit(1.0)), load("b"), load("c", fit=fit(3.0))
    assert chosen(slow, unknown) == "a"  # as fast as the only one that is known: the lesser id
    assert chosen(slow, unknown, fast) == "c"
    busy = replace(fast, num_running=40, num_resident_tokens=9_000)
    assert chosen(slow, unknown, busy) == "b"


def test_whoever_only_begins_a_request_counts_with_whoever_goes_on_with_it() -> None:
    whole = load("a", fit=fit(1.0))
    slow = replace(load("p", fit=fit(9.0)), goes_on_at=load("d", fit=fit(0.1)))
    assert chosen(whole, slow) == "a"
    fast = replace(slow, goes_on_at=load("d", fit=fit(9.0)))
    assert chosen(whole, fast) == "p"
    assert chosen(whole, replace(slow, goes_on_at=load("d"))) == "p"  # as fast as who begins it


@given(
    queued=st.integers(0, 10**6),
    running=st.integers(0, 500),
    resident=st.integers(0, 10**6),
    more=st.tuples(st.integers(0, 10**5), st.integers(0, 50), st.integers(0, 10**5)),
)
def test_more_work_never_finishes_sooner(
    queued: int, running: int, resident: int, more: tuple[int, int, int]
) -> None:
    before = load("a", queued=queued, running=running, resident=resident)
    after = load(
        "a", queued=queued + more[0], running=running + more[1], resident=resident + more[2]
    )
    first, second = (predicted_s(one, fit(), 100, LENGTHS) for one in (before, after))
    assert second >= first * (1 - 1e-9)


@given(data=st.data(), running=st.lists(st.integers(0, 50), min_size=1, max_size=6))
def test_the_order_of_the_records_does_not_matter(data: st.DataObject, running: list[int]) -> None:
    loads = [
        load(str(name), running=count, fit=fit(1.0 + name) if name % 2 else None)
        for name, count in enumerate(running)
    ]
    shuffled = data.draw(st.permutations(loads))
    assert chosen(*shuffled) == chosen(*loads)


# --- usual lengths


def test_usual_lengths_follow_the_requests_that_end() -> None:
    usual = USUAL
    for _ in range(600):
        usual = usual.after(50, 0)
    assert usual.prompt == pytest.approx(50, rel=0.01)
    assert usual.output == pytest.approx(1, rel=0.05)  # never 0: an answer has a token
