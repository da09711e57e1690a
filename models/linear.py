"""Linear layers whose weights are laid out once for the kernel that reads them.

The one idea: at the row counts of decoding, a CPU matrix product from row-major weights reaches a
half to a third of what the machine can do, because the library lays the weights out anew on every
call. oneDNN can keep its own layout; the row-major copy is then dropped. The operators are private
to torch, so they are tried once, and where they fail the plain product stays.
"""

import functools
import logging
import os

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - the name everybody knows

_log = logging.getLogger(__name__)
# Every row count is a shape of its own to oneDNN, which keeps what it made for the last 1024 of
# them, some 100 KB each: under a load that comes and goes a stage grew by hundreds of MB. Few are
# in use at a time. Both its own cache and torch's before it count; they read these at first use.
KEPT_SHAPES = "64"
for _name in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
    os.environ.setdefault(_name, KEPT_SHAPES)
# Row count that oneDNN is told to expect. Measured from 1 to 512 rows, the layout that it picks
# for 16 is within noise of the best at every count; the one for 1 row is half as fast above it.
_EXPECTED_ROWS = 16
_PACKED_DTYPES = (torch.float32, torch.bfloat16)


class PackedLinear(nn.Module):
    """A linear layer over weights in oneDNN's layout."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        super().__init__()
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)
        # No Parameter and no buffer: the layout is opaque, and nothing must try to convert it.
        self._packed = _reorder(weight)

    @property
    def num_bytes(self) -> int:
        """Bytes of the weights in this layout, its padding counted."""
        return int(torch.ops.mkldnn._nbytes(self._packed))

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Multiply rows with the weights and add the bias."""
        return _multiply(rows, self._packed, self.bias)


class PlainLinear(nn.Module):
    """A linear layer over row-major weights."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Multiply rows with the weights and add the bias."""
        return F.linear(rows, self.weight, self.bias)


def pack(weight: torch.Tensor, bias: torch.Tensor | None) -> nn.Module:
    """A linear layer over these weights, in the fastest layout that works here.

    Shapes:
        weight: [out, in]; bias: [out].
    """
    if weight.device.type == "cpu" and weight.dtype in _PACKED_DTYPES and can_pack(weight.dtype):
        return PackedLinear(weight, bias)
    return PlainLinear(weight, bias)


@functools.cache
def can_pack(dtype: torch.dtype) -> bool:
    """Whether this torch and this CPU multiply packed weights, and rightly."""
    weight, rows = torch.eye(32, 48, dtype=dtype), torch.ones(3, 48, dtype=dtype)
    try:
        with torch.inference_mode():
            packed = PackedLinear(weight, None)
            got, _ = packed(rows), packed.num_bytes
    except (RuntimeError, AttributeError) as error:
        _log.info("packed weights unavailable dtype=%s reason=%s", dtype, str(error)[:200])
        return False
    return torch.equal(got, F.linear(rows, weight))


def _multiply(rows: torch.Tensor, packed: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    out: torch.Tensor = torch.ops.mkldnn._linear_pointwise(rows, packed, bias, "none", [], "")
    return out


def _reorder(weight: torch.Tensor) -> torch.Tensor:
    reorder = torch.ops.mkldnn._reorder_linear_weight
    packed: torch.Tensor
    try:
        packed = reorder(weight, _EXPECTED_ROWS)
    except NotImplementedError:  # older torch wants the weight as an opaque tensor already
        packed = reorder(weight.to_mkldnn(), _EXPECTED_ROWS)
    return packed
