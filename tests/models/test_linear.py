import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import models.linear
from models.linear import PackedLinear, PlainLinear, can_pack, pack

packing = pytest.mark.skipif(not can_pack(torch.float32), reason="no oneDNN here")


@packing
@pytest.mark.parametrize("rows", [1, 2, 7, 16, 33, 128])
@pytest.mark.parametrize(("out", "into"), [(32, 48), (300, 70), (1, 5)])
@pytest.mark.parametrize("has_bias", [False, True])
def test_packed_equals_plain_within_rounding(
    rows: int, out: int, into: int, has_bias: bool
) -> None:
    generator = torch.Generator().manual_seed(rows)
    weight = torch.randn(out, into, generator=generator)
    bias = torch.randn(out, generator=generator) if has_bias else None
    inputs = torch.randn(1, rows, into, generator=generator)
    got, expected = PackedLinear(weight, bias)(inputs), PlainLinear(weight, bias)(inputs)
    assert got.shape == expected.shape
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


@packing
def test_packed_weights_are_as_large_as_they_say_and_hold_no_second_copy() -> None:
    layer = PackedLinear(torch.randn(256, 128), None)
    assert layer.num_bytes >= 256 * 128 * 4
    assert not list(layer.parameters())
    assert not list(layer.buffers())


@packing
def test_pack_chooses_the_packed_layout_for_what_it_supports() -> None:
    assert isinstance(pack(torch.ones(4, 4), None), PackedLinear)
    assert isinstance(pack(torch.ones(4, 4, dtype=torch.float64), None), PlainLinear)


def test_without_the_private_operators_the_plain_product_serves(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(weight: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("no such operator")

    monkeypatch.setattr(models.linear, "_reorder", refuse)
    can_pack.cache_clear()
    try:
        assert isinstance(pack(torch.ones(4, 4), torch.zeros(4)), PlainLinear)
    finally:
        can_pack.cache_clear()


def kept_shapes(**given: str) -> list[str]:
    """What the two caches of a process are told, where it was given that much itself."""
    names = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")
    environment = {k: v for k, v in os.environ.items() if k not in names} | given
    program = f"import os, models.linear; print(*(os.environ[name] for name in {names}))"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environment,
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
        timeout=100,
    )
    return done.stdout.split()


def test_shapes_are_kept_up_to_a_bound_that_an_operator_may_set() -> None:
    assert kept_shapes() == [models.linear.KEPT_SHAPES, models.linear.KEPT_SHAPES]
    assert kept_shapes(LRU_CACHE_CAPACITY="9") == [models.linear.KEPT_SHAPES, "9"]
