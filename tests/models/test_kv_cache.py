import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.errors import OutOfBlocks
from models.kv_cache import KVCache, KVGeometry
from models.kv_encoding import KV_ENCODINGS, KvEncoding

CPU = torch.device("cpu")


def _cache(*, token_major: bool = False, dtype: torch.dtype = torch.float32) -> KVCache:
    return KVCache(_geometry(token_major=token_major, dtype=dtype), 0, 2)


def _geometry(**changes: Any) -> KVGeometry:
    plain = KVGeometry(
        num_blocks=5, block_tokens=4, num_heads=3, head_dim=8, dtype=torch.float32, device=CPU
    )
    return dataclasses.replace(plain, **changes)


def _filled(*, token_major: bool, dtype: torch.dtype = torch.float32) -> KVCache:
    cache = _cache(token_major=token_major, dtype=dtype)
    for index in range(2):
        for part, entries in enumerate(cache.layer(index)):
            numbers = torch.arange(entries.numel()).view(3, 20, 8) + 1000 * (2 * index + part)
            entries.copy_(numbers)
    return cache


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_both_layouts_read_and_write_the_same_bytes(dtype: torch.dtype) -> None:
    ids = np.array([4, 1], np.int32)
    heads = _filled(token_major=False, dtype=dtype)
    tokens = _filled(token_major=True, dtype=dtype)
    data = heads.read(1, ids)
    assert tokens.read(1, ids) == data
    target = _cache(token_major=True, dtype=dtype)
    target.write(1, ids, data)
    assert target.read(1, ids) == data
    for mine, theirs in zip(target.layer(1), heads.layer(1), strict=True):
        assert torch.equal(mine[:, 4:8], theirs[:, 4:8])
        assert torch.equal(mine[:, 16:], theirs[:, 16:])
        assert not mine[:, :4].any()
        assert not mine[:, 8:16].any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_both_layouts_are_encoded_alike(dtype: torch.dtype) -> None:
    ids = np.array([4, 1], np.int32)
    data = _filled(token_major=False, dtype=dtype).read(1, ids, "int4")
    assert _filled(token_major=True, dtype=dtype).read(1, ids, "int4") == data
    heads, tokens = (_cache(token_major=major, dtype=dtype) for major in (False, True))
    for cache in (heads, tokens):
        cache.write(1, ids, data, "int4")
    assert heads.read(1, ids) == tokens.read(1, ids)


@pytest.mark.parametrize("token_major", [False, True])
@pytest.mark.parametrize("encoding", KV_ENCODINGS)
def test_no_blocks_are_read_and_written_as_no_bytes(
    token_major: bool, encoding: KvEncoding
) -> None:
    cache, nothing = _filled(token_major=token_major), np.array([], np.int32)
    before = cache.read(1, np.arange(5, dtype=np.int32))
    data = cache.read(1, nothing, encoding)
    assert len(data) == 0
    cache.write(1, nothing, data, encoding)
    assert cache.read(1, np.arange(5, dtype=np.int32)) == before


_IDS = st.lists(st.integers(0, 4), max_size=7).map(lambda ids: np.array(ids, np.int32))


@settings(deadline=None)
@given(_IDS, st.booleans(), st.sampled_from([torch.float32, torch.bfloat16]))
def test_any_ids_are_read_as_indexing_would_and_written_back(
    ids: npt.NDArray[np.int32], token_major: bool, dtype: torch.dtype
) -> None:
    cache = _filled(token_major=token_major, dtype=dtype)
    kv = torch.stack(cache.layer(1)).reshape(2, 3, 5, 4, 8).permute(2, 0, 1, 3, 4)
    chosen = kv[torch.from_numpy(ids.astype(np.int64))].contiguous()
    data = cache.read(1, ids)
    assert data == chosen.view(torch.uint8).numpy().tobytes()
    target = _cache(token_major=token_major, dtype=dtype)
    for form in (data, bytearray(data), memoryview(data)):
        target.write(1, ids, form)
        assert target.read(1, ids) == data
    untouched = np.array([i for i in range(5) if i not in ids], np.int32)
    assert not any(target.read(1, untouched))
    assert not any(target.read(0, np.arange(5, dtype=np.int32)))


@pytest.mark.parametrize("token_major", [False, True])
def test_copying_reads_all_sources_before_it_writes(token_major: bool) -> None:
    cache = _filled(token_major=token_major)
    before = [cache.read(index, np.array([0, 1, 2, 3, 4], np.int32)) for index in range(2)]
    cache.copy(np.array([0, 1, 4], np.int32), np.array([1, 0, 3], np.int32))
    moved = np.array([1, 0, 2, 4, 4], np.int32)
    after = [cache.read(index, np.array([0, 1, 2, 3, 4], np.int32)) for index in range(2)]
    expected = _filled(token_major=token_major)
    assert after == [expected.read(index, moved) for index in range(2)]
    assert after != before


def test_a_cache_beside_another_shares_the_layers_of_both_and_no_more() -> None:
    held = _cache()
    beside = KVCache(_geometry(), 1, 4, held=held)
    assert beside.layer(1)[0].data_ptr() == held.layer(1)[0].data_ptr()
    assert {beside.layer(2)[0].data_ptr(), beside.layer(3)[0].data_ptr()}.isdisjoint(
        {held.layer(0)[0].data_ptr(), held.layer(1)[0].data_ptr()}
    )
    other = KVCache(_geometry(num_heads=2), 0, 2, held=held)
    assert other.layer(0)[0].data_ptr() != held.layer(0)[0].data_ptr()


def test_pages_show_a_kernel_the_same_entries() -> None:
    cache = _filled(token_major=True)
    keys, pages = cache.layer(0)[0], cache.pages(0)[0]
    assert pages.shape == (5, 4, 3, 8)
    assert torch.equal(pages[2, 3], keys[:, 11])
    assert pages.is_contiguous()


def test_a_fresh_cache_is_zero_and_aligned_for_vector_loads() -> None:
    cache = _cache()
    keys, values = cache.layer(0)
    assert not keys.any()
    assert not values.any()
    assert keys.data_ptr() % 64 == 0
    assert cache.num_bytes == 2 * 2 * 3 * 20 * 8 * 4


def test_a_cache_that_fits_no_memory_is_refused() -> None:
    with pytest.raises(OutOfBlocks, match="does not fit cpu"):
        KVCache(_geometry(num_blocks=1 << 50), 0, 80)
