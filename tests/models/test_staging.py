import numpy as np
import pytest
import torch

from models.errors import ShapeMismatch
from models.staging import Staging

CPU = torch.device("cpu")


@pytest.mark.parametrize("wire", [torch.float32, torch.bfloat16, torch.float16])
def test_bytes_give_back_what_a_tensor_held_up_to_the_wires_rounding(wire: torch.dtype) -> None:
    staging = Staging(6, wire, torch.float32, CPU)
    hidden = torch.randn(4, 6)
    data = staging.to_bytes(hidden)
    assert data.nbytes == 4 * 6 * wire.itemsize
    assert torch.equal(staging.to_tensor(data, 4), hidden.to(wire).to(torch.float32))


def test_bytes_do_not_change_with_the_tensor_they_came_from() -> None:
    staging = Staging(2, torch.float32, torch.float32, CPU)
    hidden = torch.ones(1, 2)
    data = staging.to_bytes(hidden)
    hidden.zero_()
    assert np.frombuffer(data, np.float32).tolist() == [1.0, 1.0]


def test_a_tensor_does_not_change_with_the_bytes_it_came_from() -> None:
    staging = Staging(2, torch.float32, torch.float32, CPU)
    raw = bytearray(np.ones(2, np.float32).tobytes())
    tensor = staging.to_tensor(memoryview(raw), 1)
    raw[:] = bytes(8)
    assert tensor.tolist() == [[1.0, 1.0]]


@pytest.mark.parametrize("data", [None, memoryview(b""), memoryview(bytes(7))])
def test_other_sizes_are_refused(data: memoryview | None) -> None:
    with pytest.raises(ShapeMismatch, match="expected 8 bytes"):
        Staging(2, torch.float32, torch.float32, CPU).to_tensor(data, 1)
