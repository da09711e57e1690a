import math
import random
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.attention import CausalMasks, Step
from models.kv_cache import KVCache, KVGeometry
from models.paged_kernel import PagedKernel, _gives_the_product, find_kernel
from tests.models.driving import make_batch

CPU = torch.device("cpu")
HEADS, KV_HEADS, SIZE, BLOCK = 6, 2, 8, 4
SCALING = 0.3


@dataclass
class Span:
    start: int
    length: int


def _naive(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, start: int, window: int | None
) -> torch.Tensor:
    """Token by token and head by head, as the definition reads: [H, n, D]."""
    out = torch.empty_like(query)
    for head in range(HEADS):
        kv_head = head // (HEADS // KV_HEADS)
        for row in range(query.shape[1]):
            end = start + row + 1
            begin = 0 if window is None else max(0, end - window)
            scores = keys[kv_head, begin:end] @ query[head, row] * SCALING
            out[head, row] = scores.softmax(-1) @ values[kv_head, begin:end]
    return out


def varlen(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    offsets: torch.Tensor,
    cu_seq_k: None,
    max_q: int,
    max_k: int,
    *,
    scale: float,
    window_size: tuple[int, int],
    enable_gqa: bool,
    seqused_k: torch.Tensor,
    block_table: torch.Tensor,
) -> torch.Tensor:
    """torch's paged kernel, written out: its documented arguments and meaning."""
    assert enable_gqa
    assert window_size[1] == 0
    pieces = []
    for row, (first, last) in enumerate(pairwise(offsets)):
        used, count = int(seqused_k[row]), int(last - first)
        assert used <= max_k
        assert count <= max_q
        keys, values = (p[block_table[row].long()].flatten(0, 1)[:used] for p in (key, value))
        group = query.shape[1] // key.shape[2]
        keys, values = (e.transpose(0, 1).repeat_interleave(group, 0) for e in (keys, values))
        distance = torch.arange(used - count, used)[:, None] - torch.arange(used)
        seen = (distance >= 0) & ((distance <= window_size[0]) | (window_size[0] < 0))
        scores = query[first:last].transpose(0, 1) @ keys.mT * scale
        weights = scores.masked_fill(~seen, -math.inf).softmax(-1)
        pieces.append((weights @ values).transpose(0, 1))
    return torch.cat(pieces)


def _tables(spans: list[Span], seed: int, shuffled: bool) -> list[list[int]]:
    needed = [-(-(span.start + span.length) // BLOCK) for span in spans]
    ids = np.arange(sum(needed))
    if shuffled:
        np.random.default_rng(seed).shuffle(ids)
    return [part.tolist() for part in np.split(ids, np.cumsum(needed)[:-1])]


def _in_parts(table: list[int], rng: random.Random) -> list[int]:
    """The same blocks in another order: a few runs, the last of them first."""
    cuts = sorted(rng.randint(0, len(table)) for _ in range(rng.randint(1, 4)))
    parts = [table[first:last] for first, last in pairwise((0, *cuts, len(table)))]
    return [block for part in reversed(parts) for block in part]


def _check(
    spans: list[Span],
    window: int | None,
    seed: int,
    *,
    shuffled: bool,
    in_parts: bool = False,
    paged: bool = False,
) -> None:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    tables = _tables(spans, seed, shuffled)
    if in_parts:
        rng = random.Random(seed)
        tables = [_in_parts(table, rng) for table in tables]
    geometry = KVGeometry(
        num_blocks=sum(map(len, tables)),
        block_tokens=BLOCK,
        num_heads=KV_HEADS,
        head_dim=SIZE,
        dtype=torch.float32,
        device=CPU,
        token_major=paged,
    )
    cache = KVCache(geometry, 7, 10)
    whole = [normal(2, KV_HEADS, span.start + span.length, SIZE) for span in spans]
    # What earlier steps left in the blocks; the rest of the cache is loud, to be heard if read.
    for part, entries in enumerate(cache.layer(8)):
        entries.fill_(1e4)
        for span, table, known in zip(spans, tables, whole, strict=True):
            for place in range(span.start):
                slot = table[place // BLOCK] * BLOCK + place % BLOCK
                entries[:, slot] = known[part, :, place]
    batch = make_batch([[0] * s.length for s in spans], [s.start for s in spans], tables)
    query = normal(HEADS, batch.num_tokens, SIZE)
    new = torch.cat([w[:, :, s.start :] for s, w in zip(spans, whole, strict=True)], 2)
    kernel = PagedKernel(varlen, CPU) if paged else None
    step = Step(batch, cache, CausalMasks(torch.float32, CPU), kernel, CPU)
    got = step.attend(8, query, new[0], new[1], SCALING, window).transpose(0, 1)
    lengths = [span.length for span in spans]
    parts = torch.split(query, lengths, 1), torch.split(got, lengths, 1)
    for span, known, rows, out in zip(spans, whole, *parts, strict=True):
        expected = _naive(rows, known[0], known[1], span.start, window)
        torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-4)


_SPANS = st.lists(
    st.builds(Span, st.integers(0, 30), st.one_of(st.just(1), st.integers(1, 20))),
    min_size=1,
    max_size=4,
)


@settings(max_examples=60, deadline=None)
@given(_SPANS, st.sampled_from([None, 1, 3, 16]), st.integers(0, 99), st.booleans())
def test_any_ragged_batch_sees_what_the_definition_says(
    spans: list[Span], window: int | None, seed: int, shuffled: bool
) -> None:
    _check(spans, window, seed, shuffled=shuffled)


@settings(max_examples=60, deadline=None)
@given(_SPANS, st.sampled_from([None, 1, 3, 16]), st.integers(0, 999))
def test_a_table_in_a_few_runs_is_read_as_the_definition_says(
    spans: list[Span], window: int | None, seed: int
) -> None:
    _check(spans, window, seed, shuffled=False, in_parts=True)


@settings(max_examples=30, deadline=None)
@given(_SPANS, st.sampled_from([None, 1, 3, 16]), st.integers(0, 99))
def test_through_the_paged_kernel_it_is_the_same(
    spans: list[Span], window: int | None, seed: int
) -> None:
    _check(spans, window, seed, shuffled=True, paged=True)


@pytest.mark.parametrize("window", [None, 20, 150])
@pytest.mark.parametrize("start", [0, 37, 600])
def test_a_prompt_of_several_chunks_sees_what_the_definition_says(
    start: int, window: int | None
) -> None:
    _check([Span(start, 270), Span(5, 1)], window, 1, shuffled=False)


def test_without_a_gpu_there_is_no_paged_kernel() -> None:
    assert find_kernel(CPU, torch.bfloat16, 16, 2, 64) is None


def test_a_kernel_counts_only_if_it_gives_the_product() -> None:
    def wrong(*args: Any, **options: Any) -> torch.Tensor:
        tables = options.pop("block_table")
        return varlen(*args, **options, block_table=tables.flip(1))

    sizes = (CPU, torch.float32, BLOCK, KV_HEADS, SIZE)
    assert _gives_the_product(PagedKernel(varlen, CPU), *sizes)
    assert not _gives_the_product(PagedKernel(wrong, CPU), *sizes)
