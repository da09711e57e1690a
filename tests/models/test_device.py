import ctypes
import sys
from pathlib import Path

import pytest
import torch

import models.device
from models.device import (
    describe_device,
    list_devices,
    measure_device,
    release_freed_memory,
    set_num_threads,
)
from models.errors import ModelError


def test_the_cpu_is_always_there_and_has_memory() -> None:
    assert list_devices()[0] == "cpu"
    facts = describe_device("cpu")
    assert facts.name
    assert 0 < facts.memory_free_bytes <= facts.memory_bytes


def test_measuring_finds_rates_that_a_computer_has() -> None:
    measured = measure_device("cpu")
    assert measured.device == "cpu"
    assert 1e8 < measured.flops_per_s < 1e14
    assert 1e8 < measured.bytes_per_s < 1e13
    assert 1e-7 < measured.layer_overhead_s < 10


@pytest.mark.parametrize("device", ["cuda:99", "gpu", ""])
def test_a_device_that_is_not_there_is_refused_with_those_that_are(device: str) -> None:
    with pytest.raises(ModelError, match="expected one of cpu"):
        describe_device(device)


def test_where_the_system_tells_nothing_there_is_still_an_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(models.device, "_read_lines", lambda path: [])
    facts = describe_device("cpu")
    assert facts.name == "CPU"
    assert facts.memory_free_bytes == facts.memory_bytes


def test_a_file_that_is_not_there_reads_as_no_lines(tmp_path: Path) -> None:
    assert models.device._read_lines(tmp_path / "none") == []


@pytest.mark.parametrize("platform", ["linux", "darwin", "win32"])
def test_freed_memory_is_released_where_the_system_has_a_way(
    platform: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []

    class Library:
        def __init__(self, _: None) -> None:
            self.malloc_trim = calls.append

    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(ctypes, "CDLL", Library)
    release_freed_memory()
    assert calls == ([0] if platform == "linux" else [])


def test_threads_are_those_that_were_set() -> None:
    before = torch.get_num_threads()
    try:
        set_num_threads(2)
        assert torch.get_num_threads() == 2
    finally:
        set_num_threads(before)
