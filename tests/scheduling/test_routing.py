from hypothesis import given
from hypothesis import strategies as st

from scheduling.routing import PipelineLoad, choose_pipeline


def load(
    name: str,
    *,
    queued: int = 0,
    running: int = 0,
    free: int | None = None,
    rate: float | None = None,
) -> PipelineLoad:
    return PipelineLoad(
        pipeline=name,
        num_queued_tokens=queued,
        num_running=running,
        num_free_tokens=free,
        tokens_per_s=rate,
    )


def test_without_pipelines_there_is_no_choice() -> None:
    assert choose_pipeline([], num_prompt_tokens=10) is None


def test_ties_go_to_the_lesser_id() -> None:
    assert choose_pipeline([load("b"), load("a")], num_prompt_tokens=10) == "a"


def test_fewer_queued_tokens_win() -> None:
    loads = [load("a", queued=500), load("b", queued=100)]
    assert choose_pipeline(loads, num_prompt_tokens=10) == "b"


def test_fewer_running_sequences_win() -> None:
    loads = [load("a", running=3), load("b", running=2)]
    assert choose_pipeline(loads, num_prompt_tokens=10) == "b"


def test_a_fast_pipeline_may_have_more_before_it() -> None:
    loads = [load("fast", queued=500, rate=1000.0), load("slow", queued=100, rate=100.0)]
    assert choose_pipeline(loads, num_prompt_tokens=100) == "fast"


def test_a_pipeline_of_unknown_rate_counts_as_the_mean_of_the_known() -> None:
    loads = [load("slow", rate=100.0), load("unknown"), load("fast", rate=300.0)]
    assert choose_pipeline(loads[:2], num_prompt_tokens=100) == "slow"
    assert choose_pipeline(loads, num_prompt_tokens=100) == "fast"
    assert choose_pipeline([loads[1], load("busy", queued=9, rate=100.0)], num_prompt_tokens=1) == (
        "unknown"
    )


def test_a_pipeline_without_free_blocks_comes_last() -> None:
    loads = [load("full", free=9), load("busy", queued=500, free=10), load("busier", queued=600)]
    assert choose_pipeline(loads, num_prompt_tokens=10) == "busy"
    assert choose_pipeline(loads[:1], num_prompt_tokens=10) == "full"


@given(data=st.data(), running=st.lists(st.integers(0, 50), min_size=1, max_size=6))
def test_the_order_of_the_records_does_not_matter(data: st.DataObject, running: list[int]) -> None:
    loads = [load(str(name), running=count) for name, count in enumerate(running)]
    shuffled = data.draw(st.permutations(loads))
    chosen = choose_pipeline(shuffled, num_prompt_tokens=1)
    assert chosen == choose_pipeline(loads, num_prompt_tokens=1)
