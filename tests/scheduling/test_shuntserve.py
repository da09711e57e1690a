import pytest

from scheduling.errors import Infeasible
from scheduling.shuntserve.catalogue import (
    G5_12XLARGE,
    G6_12XLARGE,
    G6E_XLARGE,
    LLAMA_31_70B,
    InstanceType,
)
from scheduling.shuntserve.estimator import Estimator, Stage
from scheduling.shuntserve.roofline import RequestLengths

PUBLISHED = [
    ([(G6_12XLARGE, 14)] * 2 + [(G6E_XLARGE, 13)] * 4, 1.9951945710714936, 15173),
    ([(G5_12XLARGE, 26)] * 2 + [(G6_12XLARGE, 28)], 0.835318697976453, 13867),
]


@pytest.mark.parametrize(("stages", "requests_per_s", "num_kv_blocks"), PUBLISHED)
def test_the_published_predictions_are_met(
    stages: list[tuple[InstanceType, int]], requests_per_s: float, num_kv_blocks: int
) -> None:
    estimate = Estimator(LLAMA_31_70B).estimate([Stage(*stage) for stage in stages])
    assert estimate.requests_per_s == pytest.approx(requests_per_s, rel=1e-9)
    assert estimate.num_kv_blocks == num_kv_blocks
    assert estimate.latency_s == pytest.approx(estimate.prefill_s + estimate.decode_s)


def test_a_pipeline_without_room_is_refused_with_its_rooms() -> None:
    with pytest.raises(Infeasible, match=r"'g5\.12xlarge', 80"):
        Estimator(LLAMA_31_70B).estimate([Stage(G5_12XLARGE, 80)])


def test_a_pipeline_without_stages_is_refused() -> None:
    with pytest.raises(Infeasible, match=r"got \[\]"):
        Estimator(LLAMA_31_70B).estimate([])


def test_prompts_longer_than_a_prompt_batch_are_refused() -> None:
    with pytest.raises(Infeasible, match="9000"):
        Estimator(LLAMA_31_70B, RequestLengths(prompt_tokens=9000))


@pytest.mark.parametrize("batch", [1, 3, 39, 40, 41, 244])
def test_microbatches_add_up_and_none_is_empty(batch: int) -> None:
    estimator = Estimator(LLAMA_31_70B)
    prefills, decodes = estimator.microbatches(batch, 4)
    for split in (prefills, decodes):
        assert sum(size * number for size, number in split) == batch
        assert all(size and number for size, number in split)
    assert max(prefills)[0] <= estimator.max_prefill_batch
    assert sum(number for _, number in decodes) <= 4


def test_a_slower_stage_lowers_the_prediction() -> None:
    estimator = Estimator(LLAMA_31_70B)
    even = estimator.estimate(
        [Stage(G6_12XLARGE, 27), Stage(G6_12XLARGE, 26), Stage(G6E_XLARGE, 9)]
    )
    lopsided = estimator.estimate(
        [Stage(G6_12XLARGE, 27), Stage(G6_12XLARGE, 20), Stage(G6E_XLARGE, 15)]
    )
    assert lopsided.requests_per_s < even.requests_per_s
