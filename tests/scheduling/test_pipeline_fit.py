"""Times fitted to a pipeline's stages against the roofline that they are fitted to."""

import pytest

from scheduling.goal import Limits
from scheduling.link_rate import LinkRate
from scheduling.model_shape import ModelShape, StepWork
from scheduling.pipeline_fit import FittedStage, fit_stages
from scheduling.roofline import StageTime
from scheduling.split import StageDevice

SHAPE = ModelShape(
    num_layers=8,
    hidden=1024,
    intermediate=4096,
    num_heads=16,
    num_kv_heads=4,
    head_dim=64,
    vocab=32_000,
    dtype_bytes=2,
    tied=False,
)
LIMITS = Limits(max_running=64, max_step_tokens=512, max_model_len=2048)
HOP = LinkRate(bytes_per_s=1e9, latency_s=1e-3)


def device(speed: float = 1.0) -> StageDevice:
    return StageDevice(
        memory_bytes=1 << 34,
        flops_per_s=20e12 * speed,
        bytes_per_s=300e9 * speed,
        layer_overhead_s=1e-5,
    )


def test_times_of_one_device_are_near_its_roofline() -> None:
    times = fit_stages([FittedStage(device(), 0, 8)], [], SHAPE, LIMITS)
    assert times.relative_error < 0.2
    work = StepWork(num_tokens=16, num_pairs=16 * 800, num_context=16 * 800, num_drawn=16)
    exact = StageTime(device(), SHAPE, (0, 8)).of(work)
    assert times.decode_s(16, 16 * 800) == pytest.approx(exact, rel=0.1)


def test_a_device_of_twice_the_rates_is_nearly_twice_as_fast() -> None:
    slow, fast = (fit_stages([FittedStage(device(s), 0, 8)], [], SHAPE, LIMITS) for s in (1.0, 2.0))
    assert slow.decode_s(32, 16_000) / fast.decode_s(32, 16_000) == pytest.approx(2, rel=0.1)
    assert slow.prefill_s(8192, 2**24) / fast.prefill_s(8192, 2**24) == pytest.approx(2, rel=0.1)


def test_stages_share_the_prompts_but_every_token_passes_all_of_them() -> None:
    one = fit_stages([FittedStage(device(), 0, 8)], [], SHAPE, LIMITS)
    halves = [FittedStage(device(), 0, 4), FittedStage(device(), 4, 8)]
    two = fit_stages(halves, [HOP], SHAPE, LIMITS)
    assert two.prefill_s(16_384, 2**24) < 0.7 * one.prefill_s(16_384, 2**24)
    assert two.decode_s(1, 128) > one.decode_s(1, 128) + 0.5e-3  # the hop's way


def test_a_longer_way_between_stages_costs_every_step() -> None:
    halves = [FittedStage(device(), 0, 4), FittedStage(device(), 4, 8)]
    near = fit_stages(halves, [HOP], SHAPE, LIMITS)
    far = fit_stages(halves, [LinkRate(bytes_per_s=1e9, latency_s=0.05)], SHAPE, LIMITS)
    assert far.decode_s(1, 128) - near.decode_s(1, 128) == pytest.approx(0.049, rel=0.1)


@pytest.mark.parametrize(("stages", "hops"), [([], []), ([FittedStage(device(), 0, 8)], [HOP])])
def test_stages_and_links_that_do_not_go_together_are_refused(
    stages: list[FittedStage], hops: list[LinkRate]
) -> None:
    with pytest.raises(ValueError, match="expected one or more stages and one link fewer"):
        fit_stages(stages, hops, SHAPE, LIMITS)
