"""Attention over a paged cache, for the ragged batches that transformers' modules know nothing of.

The one idea: transformers calls whatever is registered under a model's attention name and passes
extra keywords through. So its own layers run over one row of all sequences' tokens, and this
function alone knows where a sequence begins and where its keys are: a `Step`, built once a batch.

Repeated KV heads are never made: a decoding token's query heads that share a KV head are the rows
of one small matrix product, and prefill asks for grouped heads by name.
"""

from typing import Any

import numpy as np
import torch
from torch.nn import functional as F  # noqa: N812 - the name everybody knows
from transformers import AttentionInterface

from models import layout
from models.forward_batch import ForwardBatch
from models.kv_cache import KVCache, split_dim
from models.paged_kernel import PagedKernel

NAME = "remuda"
STEP_KEYWORD = "remuda_step"
# So many runs of blocks are read where they lie, as when a beginning is shared; more are gathered.
_MAX_RUNS = 4
# Query rows that see their keys at once: more of them waste work above the diagonal.
_CHUNK_ROWS = 128


class Step:
    """One batch as attention sees it, over one shard's cache."""

    def __init__(
        self,
        batch: ForwardBatch,
        cache: KVCache,
        masks: "CausalMasks",
        kernel: PagedKernel | None,
        device: torch.device,
    ) -> None:
        self._cache, self._masks = cache, masks
        slots = layout.slots(batch, cache.geometry.block_tokens)
        self._slots = torch.tensor(slots, device=device)  # a copy: others read them too
        self._paged = kernel.prepare(batch) if kernel is not None else None
        self._sequences = [] if kernel is not None else _sequences(batch, cache, device)

    def attend(
        self,
        layer: int,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        scaling: float,
        window: int | None,
    ) -> torch.Tensor:
        """Write the new entries of a layer, then let each token see its sequence's.

        Shapes:
            query: [H, T, D]; key, value: [K, T, D]. Returns [T, H, D].
        """
        keys, values = self._cache.layer(layer)
        keys.index_copy_(1, self._slots, key)
        values.index_copy_(1, self._slots, value)
        if self._paged is not None:
            return self._paged.attend(query, self._cache.pages(layer), scaling, window)
        rows = query.transpose(0, 1) * scaling
        pieces = [
            sequence.decode(rows, keys, values, window)
            if sequence.length == 1
            else sequence.prefill(rows, keys, values, window, self._masks)
            for sequence in self._sequences
        ]
        return torch.cat(pieces)


def attend(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: None,
    *,
    scaling: float,
    sliding_window: int | None = None,
    **extra: Any,
) -> tuple[torch.Tensor, None]:
    """What transformers calls in every layer; `extra` holds the step that the shard passed in.

    Shapes:
        query: [1, H, T, D]; key, value: [1, K, T, D]. Returns [1, T, H, D].
    """
    step: Step = extra[STEP_KEYWORD]
    out = step.attend(module.layer_idx, query[0], key[0], value[0], scaling, sliding_window)
    return out[None], None


AttentionInterface.register(NAME, attend)


class CausalMasks:
    """Additive masks for chunks whose last row may see the last key, kept and cut to size."""

    def __init__(self, dtype: torch.dtype, device: torch.device) -> None:
        self._dtype, self._device = dtype, device
        self._known: dict[int | None, torch.Tensor] = {}

    def cut(self, num_rows: int, num_keys: int, window: int | None) -> torch.Tensor:
        """The mask of `num_rows` queries over `num_keys` keys, the last of each aligned."""
        known = self._known.get(window)
        if known is None or known.shape[1] < num_keys:
            known = self._known[window] = self._build(max(512, 2 * num_keys), window)
        return known[_CHUNK_ROWS - num_rows :, known.shape[1] - num_keys :]

    def _build(self, num_keys: int, window: int | None) -> torch.Tensor:
        shape = (_CHUNK_ROWS, num_keys)
        diagonal = num_keys - _CHUNK_ROWS
        seen = torch.ones(shape, dtype=torch.bool).tril(diagonal)
        if window is not None:
            seen = seen.triu(diagonal - window + 1)
        mask = torch.zeros(shape, dtype=self._dtype).masked_fill(~seen, -torch.inf)
        return mask.to(self._device)


class _Sequence:
    """One sequence of a batch: its rows, and where its keys are in the cache."""

    __slots__ = ("_block_tokens", "_blocks", "_known_parts", "_runs", "first", "length", "start")

    def __init__(
        self,
        first: int,
        length: int,
        start: int,
        blocks: np.ndarray[Any, np.dtype[np.int32]],
        block_tokens: int,
        device: torch.device,
    ) -> None:
        self.first, self.length, self.start = first, length, start
        self._block_tokens = block_tokens
        self._runs = _runs(blocks, block_tokens)
        self._known_parts: tuple[int, list[tuple[int, int]]] | None = None
        is_run = len(self._runs) == 1
        self._blocks = None if is_run else torch.from_numpy(blocks.astype(np.int64)).to(device)

    def decode(
        self, rows: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, window: int | None
    ) -> torch.Tensor:
        """One token over its sequence: [1, H, D]. Query heads of one KV head are one product."""
        end = self.start + 1
        begin = 0 if window is None else max(0, end - window)
        _, num_heads, head_dim = rows.shape
        query = rows[self.first].reshape(keys.shape[0], -1, head_dim)
        if 1 < len(self._runs) <= _MAX_RUNS:
            out = self._decode_in_parts(query, keys, values, begin, end)
        else:
            key, value = self._span(keys, begin, end), self._span(values, begin, end)
            out = torch.bmm(torch.bmm(query, key.mT).softmax(-1), value)
        return out.reshape(1, num_heads, head_dim)

    def _decode_in_parts(
        self, query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, begin: int, end: int
    ) -> torch.Tensor:
        """The same over a few runs, none of which is copied to be one with the others."""
        spans = self._parts(begin, end)
        scores = [torch.bmm(query, keys.narrow(1, *span).mT) for span in spans]
        sizes = [count for _, count in spans]
        weights = torch.split(torch.cat(scores, -1).softmax(-1), sizes, -1)
        out = torch.bmm(weights[0], values.narrow(1, *spans[0]))
        for share, span in zip(weights[1:], spans[1:], strict=True):
            out.baddbmm_(share, values.narrow(1, *span))
        return out

    def _parts(self, begin: int, end: int) -> list[tuple[int, int]]:
        """Where positions `[begin, end)` are: slots and numbers of entries, run by run."""
        if self._known_parts is None or self._known_parts[0] != begin:
            cut = [
                (slot + max(begin - place, 0), min(end, place + count) - max(begin, place))
                for place, slot, count in self._runs
            ]
            self._known_parts = begin, [(slot, count) for slot, count in cut if count > 0]
        return self._known_parts[1]

    def prefill(
        self,
        rows: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        window: int | None,
        masks: CausalMasks,
    ) -> torch.Tensor:
        """Several tokens over their sequence: [length, H, D], a chunk of query rows at a time."""
        chunks = []
        for offset in range(0, self.length, _CHUNK_ROWS):
            count = min(_CHUNK_ROWS, self.length - offset)
            end = self.start + offset + count
            begin = 0 if window is None else max(0, end - count - window + 1)
            query = rows[self.first + offset : self.first + offset + count].transpose(0, 1)
            out = F.scaled_dot_product_attention(
                query[None],
                self._span(keys, begin, end)[None],
                self._span(values, begin, end)[None],
                attn_mask=masks.cut(count, end - begin, window),
                scale=1.0,
                enable_gqa=True,
            )
            chunks.append(out[0].transpose(0, 1))
        return chunks[0] if len(chunks) == 1 else torch.cat(chunks)

    def _span(self, entries: torch.Tensor, begin: int, end: int) -> torch.Tensor:
        """Entries of positions `[begin, end)`: [K, end - begin, D], a view where they are a run."""
        if self._blocks is None:
            return entries.narrow(1, self._runs[0][1] + begin, end - begin)
        size = self._block_tokens
        blocks = self._blocks[begin // size : -(-end // size)]
        gathered = split_dim(entries, 1, size).index_select(1, blocks).flatten(1, 2)
        return gathered.narrow(1, begin % size, end - begin)


def _runs(
    blocks: np.ndarray[Any, np.dtype[np.int32]], block_tokens: int
) -> list[tuple[int, int, int]]:
    """The runs of consecutive blocks of a table, each by position, slot and number of entries."""
    starts = [0, *(np.flatnonzero(np.diff(blocks) != 1) + 1).tolist()]
    ends = [*starts[1:], len(blocks)]
    return [
        (start * block_tokens, int(blocks[start]) * block_tokens, (end - start) * block_tokens)
        for start, end in zip(starts, ends, strict=True)
    ]


def _sequences(batch: ForwardBatch, cache: KVCache, device: torch.device) -> list[_Sequence]:
    block_tokens = cache.geometry.block_tokens
    needed = layout.blocks_needed(batch, block_tokens)
    firsts = np.cumsum(batch.lengths) - batch.lengths
    facts = zip(firsts.tolist(), batch.lengths.tolist(), batch.starts.tolist(), strict=True)
    return [
        _Sequence(*fact, table[:count], block_tokens, device)
        for fact, table, count in zip(facts, batch.block_tables, needed.tolist(), strict=True)
    ]
