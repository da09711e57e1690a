import numpy as np
import pytest
import torch

from models.errors import OutOfBlocks
from models.kv_cache import KVCache

CPU = torch.device("cpu")


def _cache(*, token_major: bool = False, dtype: torch.dtype = torch.float32) -> KVCache:
    return KVCache(2, 5, 4, 3, 8, dtype, CPU, token_major=token_major)


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
        KVCache(80, 1 << 40, 1 << 10, 8, 128, torch.float32, CPU)
