"""Paged attention by torch's own variable-length kernel, where this GPU and torch have it.

The one idea: the kernel reads keys through the block table, so nothing is gathered. Which page
sizes, dtypes and head sizes it takes depends on the GPU and on torch's version, so it is tried
once, against a product written out, and a shard does without where it fails.
"""

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from models.forward_batch import ForwardBatch

_log = logging.getLogger(__name__)


class PagedKernel:
    """The kernel, ready for batches on one device."""

    def __init__(self, varlen: Callable[..., Any], device: torch.device) -> None:
        self._varlen, self._device = varlen, device

    def prepare(self, batch: ForwardBatch) -> "PagedStep":
        """Put a batch's index tensors on the device, once for all layers."""
        return PagedStep(self._varlen, batch, self._device)


class PagedStep:
    """One batch's index tensors."""

    def __init__(
        self, varlen: Callable[..., Any], batch: ForwardBatch, device: torch.device
    ) -> None:
        self._varlen = varlen
        ends = batch.starts + batch.lengths
        offsets = np.concatenate([[0], np.cumsum(batch.lengths)]).astype(np.int32)
        self._offsets = torch.from_numpy(offsets).to(device)
        self._used = torch.from_numpy(ends.astype(np.int32)).to(device)
        # Padding is -1 in a batch; the kernel must find a block that exists.
        tables = np.maximum(batch.block_tables, 0)
        self._tables = torch.from_numpy(tables).to(device)
        self._max_rows, self._max_keys = int(batch.lengths.max()), int(ends.max())

    def attend(
        self,
        query: torch.Tensor,
        pages: tuple[torch.Tensor, torch.Tensor],
        scaling: float,
        window: int | None,
    ) -> torch.Tensor:
        """Let each token see its sequence's entries.

        Shapes:
            query: [H, T, D]; pages: [N, P, K, D] each. Returns [T, H, D].
        """
        out: torch.Tensor = self._varlen(
            query.transpose(0, 1).contiguous(),
            *pages,
            self._offsets,
            None,
            self._max_rows,
            self._max_keys,
            scale=scaling,
            window_size=(-1 if window is None else window - 1, 0),
            enable_gqa=True,
            seqused_k=self._used,
            block_table=self._tables,
        )
        return out


def find_kernel(
    device: torch.device, dtype: torch.dtype, block_tokens: int, num_heads: int, head_dim: int
) -> PagedKernel | None:
    """The kernel, if it takes these sizes here and gives what it must; else None."""
    if device.type != "cuda" or dtype not in (torch.bfloat16, torch.float16):
        return None
    try:
        from torch.nn.attention.varlen import varlen_attn

        kernel = PagedKernel(varlen_attn, device)
        is_right = _gives_the_product(kernel, device, dtype, block_tokens, num_heads, head_dim)
    except (ImportError, TypeError, ValueError, RuntimeError) as error:
        _log.info("paged kernel unavailable reason=%s", str(error)[:200])
        return None
    return kernel if is_right else None


def _gives_the_product(
    kernel: PagedKernel,
    device: torch.device,
    dtype: torch.dtype,
    block_tokens: int,
    num_heads: int,
    head_dim: int,
) -> bool:
    """Try one decoding token over a table of two blocks in the wrong order."""
    count = block_tokens + 1
    pages = torch.randn(2, 3, block_tokens, num_heads, head_dim, device=device).to(dtype)
    query = torch.randn(num_heads, 1, head_dim, device=device).to(dtype)
    step = kernel.prepare(_probe_batch(count))
    got = step.attend(query, (pages[0], pages[1]), head_dim**-0.5, None)[0]
    keys, values = pages[:, [2, 0]].flatten(1, 2)[:, :count].transpose(1, 2).float()
    weights = (query.float() @ keys.mT * head_dim**-0.5).softmax(-1)
    return torch.allclose(got.float(), (weights @ values)[:, 0], atol=0.05)


def _probe_batch(count: int) -> ForwardBatch:
    one = np.ones(1, np.int32)
    return ForwardBatch(
        token_ids=one,
        starts=one * (count - 1),
        lengths=one,
        block_tables=np.array([[2, 0]], np.int32),
        samples=one.astype(np.bool_),
        suppress_eos=one.astype(np.bool_),
        seeds=one.astype(np.uint64),
        temperatures=one.astype(np.float32),
        top_ps=one.astype(np.float32),
        min_ps=one.astype(np.float32),
        top_ks=one,
    )
