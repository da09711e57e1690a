import doctest

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduling import roofline
from scheduling.roofline import (
    LinkRate,
    ModelShape,
    StageTime,
    StepWork,
    model_cost,
    transfer_time_s,
)
from scheduling.split import StageDevice, split_layers

SHAPE = ModelShape(
    num_layers=4,
    hidden=8,
    num_heads=4,
    num_kv_heads=2,
    head_dim=2,
    intermediate=16,
    vocab=100,
    dtype_bytes=2,
)
DEVICE = StageDevice(memory_bytes=10**9, flops_per_s=1e6, bytes_per_s=1e3, layer_overhead_s=0.5)
DECODE = StepWork(num_tokens=1, num_pairs=10, num_context=10, num_drawn=1)


def test_the_examples_hold() -> None:
    assert doctest.testmod(roofline).failed == 0


def test_a_layer_has_four_attention_matrices_and_three_of_the_feed_forward_part() -> None:
    attention = 8 * 8 + 2 * 8 * 4 + 8 * 8
    assert SHAPE.layer_parameters == attention + 3 * 8 * 16
    assert SHAPE.num_parameters == 4 * SHAPE.layer_parameters + 2 * 800
    assert SHAPE.kv_bytes_per_token == 2 * 2 * 2 * 2
    assert SHAPE.token_bytes == 16


def test_a_tied_head_counts_once() -> None:
    tied = ModelShape(
        num_layers=1,
        hidden=8,
        num_heads=1,
        num_kv_heads=1,
        head_dim=8,
        intermediate=8,
        vocab=100,
        tied=True,
    )
    assert tied.num_parameters == tied.layer_parameters + 800


def test_a_decode_step_is_bound_by_the_weights_and_the_context_it_reads() -> None:
    weights, kv = SHAPE.layer_parameters * 2, 10 * SHAPE.kv_bytes_per_token
    expected = 2 * ((weights + kv) / 1e3 + 0.5)
    assert StageTime(DEVICE, SHAPE, (1, 3)).of(DECODE) == pytest.approx(expected)


def test_a_long_prompt_is_bound_by_arithmetic() -> None:
    work = StepWork(num_tokens=10**6, num_pairs=10**9, num_context=10**6, num_drawn=0)
    slow = StageDevice(memory_bytes=1, flops_per_s=1e6, bytes_per_s=1e18)
    flops = 10**6 * 2 * SHAPE.layer_parameters + 10**9 * 4 * 4 * 2
    assert StageTime(slow, SHAPE, (0, 1)).of(work) == pytest.approx(flops / 1e6)


def test_only_the_last_stage_has_a_head_and_reads_it_only_to_draw() -> None:
    head = 100 * 8 * 2 / 1e3
    silent = StepWork(num_tokens=1, num_pairs=10, num_context=10, num_drawn=0)
    last, middle = (3, 4), (2, 3)
    without = StageTime(DEVICE, SHAPE, middle).of(DECODE)
    assert StageTime(DEVICE, SHAPE, last).of(DECODE) == pytest.approx(without + head)
    assert StageTime(DEVICE, SHAPE, last).of(silent) == pytest.approx(without)


@given(
    st.integers(1, 10**5),
    st.integers(1, 10**9),
    st.integers(1, 10**7),
    st.integers(0, 1000),
    st.integers(1, 3),
)
def test_layers_in_two_stages_take_what_they_take_in_one(
    num_tokens: int, num_pairs: int, num_context: int, num_drawn: int, cut: int
) -> None:
    work = StepWork(
        num_tokens=num_tokens, num_pairs=num_pairs, num_context=num_context, num_drawn=num_drawn
    )
    parts = [StageTime(DEVICE, SHAPE, layers).of(work) for layers in ((0, cut), (cut, 4))]
    assert sum(parts) == pytest.approx(StageTime(DEVICE, SHAPE, (0, 4)).of(work))


@given(st.integers(1, 1000), st.integers(0, 1000), st.integers(1, 8))
def test_a_faster_device_or_less_work_never_takes_longer(
    num_tokens: int, more: int, factor: int
) -> None:
    def work(tokens: int) -> StepWork:
        return StepWork(
            num_tokens=tokens, num_pairs=9 * tokens, num_context=9 * tokens, num_drawn=tokens
        )

    faster = StageDevice(
        memory_bytes=1,
        flops_per_s=DEVICE.flops_per_s * factor,
        bytes_per_s=DEVICE.bytes_per_s * factor,
        layer_overhead_s=DEVICE.layer_overhead_s,
    )
    time_s = StageTime(DEVICE, SHAPE, (0, 4)).of(work(num_tokens))
    assert StageTime(DEVICE, SHAPE, (0, 4)).of(work(num_tokens + more)) >= time_s
    assert StageTime(faster, SHAPE, (0, 4)).of(work(num_tokens)) <= time_s


def test_a_transfer_takes_the_latency_and_the_bytes() -> None:
    link = LinkRate(bytes_per_s=1e6, latency_s=0.25)
    assert transfer_time_s(link, 500_000) == pytest.approx(0.75)
    assert transfer_time_s(link, 0) == 0.25


def test_a_split_by_the_cost_of_a_shape_covers_its_layers() -> None:
    cost = model_cost(SHAPE, num_kv_tokens=10)
    fast = StageDevice(memory_bytes=10**9, flops_per_s=3e6, bytes_per_s=3e3)
    slow = StageDevice(memory_bytes=10**9, flops_per_s=1e6, bytes_per_s=1e3)
    assert split_layers(4, [fast, slow], cost) == ((0, 3), (3, 4))
    assert sum(cost.layer_bytes) + cost.embedding_bytes + cost.head_bytes == (
        2 * SHAPE.num_parameters
    )
