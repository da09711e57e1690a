"""What the devices of this machine are and what they can do.

Planning needs a device's memory, arithmetic rate and memory rate; the first two of a name plate
say little on shared hosts, so rates are measured, briefly, by the same kind of work that serving
does. It never knows a model.
"""

import ctypes
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaModel

from models.errors import ModelError
from models.linear import pack

# A weight matrix of a size that no cache holds, and a row count typical of prefill.
_ROWS, _WIDTH = 256, 2048
_STREAM_BYTES = 64 << 20
# A model whose arithmetic takes no time beside the starting of its operations.
_TINY_WIDTH, _TINY_LAYERS = 32, 8
_BUDGET_S = 0.15


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceDescription:
    """A device's name and memory, in bytes; free memory is that of the moment."""

    device: str
    name: str
    memory_bytes: int
    memory_free_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceMeasurement:
    """A device's description and what it was measured to do.

    The rates are those of matrix products and of reading weights. `layer_overhead_s` is what a
    layer takes though there is hardly anything to compute: the start of all its operations.
    """

    device: str
    name: str
    memory_bytes: int
    memory_free_bytes: int
    flops_per_s: float
    bytes_per_s: float
    layer_overhead_s: float


def list_devices() -> tuple[str, ...]:
    """The devices that a shard can be loaded on: the CPU, then every GPU."""
    return ("cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count())))


def torch_device(device: str) -> torch.device:
    """The torch device of a name like `cpu` or `cuda:1`.

    Raises:
        ModelError: there is no such device here.
    """
    if device not in list_devices():
        raise ModelError(f"device {device!r}: expected one of {', '.join(list_devices())}")
    return torch.device(device)


def set_num_threads(num_threads: int) -> None:
    """Let this process's tensor work on the CPU use so many threads."""
    torch.set_num_threads(num_threads)


def release_freed_memory() -> None:
    """Give back to the system what was freed, where the C library would keep it for later."""
    if sys.platform.startswith("linux"):
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:  # glibc alone has it
            trim(0)


def describe_device(device: str) -> DeviceDescription:
    """Name and memory of one device.

    Raises:
        ModelError: there is no such device here.
    """
    chosen = torch_device(device)
    name, total, free = _cuda_facts(chosen) if chosen.type == "cuda" else _cpu_facts()
    return DeviceDescription(device=device, name=name, memory_bytes=total, memory_free_bytes=free)


def free_bytes(device: str) -> int:
    """Memory of a device that can be taken now, what torch keeps for later counted as free.

    Raises:
        ModelError: there is no such device here.
    """
    chosen, free = torch_device(device), describe_device(device).memory_free_bytes
    if chosen.type == "cuda":
        free += torch.cuda.memory_reserved(chosen) - torch.cuda.memory_allocated(chosen)
    return free


def measure_device(device: str) -> DeviceMeasurement:
    """Describe a device and measure it with this process's threads, in under half a second.

    Raises:
        ModelError: there is no such device here.
    """
    facts, chosen = describe_device(device), torch_device(device)
    with torch.inference_mode():
        return DeviceMeasurement(
            device=device,
            name=facts.name,
            memory_bytes=facts.memory_bytes,
            memory_free_bytes=facts.memory_free_bytes,
            flops_per_s=_flops_per_s(chosen),
            bytes_per_s=_bytes_per_s(chosen),
            layer_overhead_s=_layer_overhead_s(chosen),
        )


def _cpu_facts() -> tuple[str, int, int]:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return _cpu_name(), total, min(total, _cpu_free_bytes(total))


def _cpu_name() -> str:
    lines = _read_lines(Path("/proc/cpuinfo"))
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else "CPU"


def _cpu_free_bytes(total: int) -> int:
    lines = _read_lines(Path("/proc/meminfo"))
    free = [int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable")]
    return free[0] if free else total


def _read_lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux: the caller has a rougher answer
        return []


def _cuda_facts(device: torch.device) -> tuple[str, int, int]:
    free, total = torch.cuda.mem_get_info(device)
    return torch.cuda.get_device_name(device), total, free


def _flops_per_s(device: torch.device) -> float:
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    width = 4 * _WIDTH if device.type == "cuda" else _WIDTH
    rows = torch.randn(16 * _ROWS if device.type == "cuda" else _ROWS, width).to(device, dtype)
    linear = pack(torch.randn(width, width).to(device, dtype), None)
    return 2 * rows.shape[0] * width * width / _fastest_s(lambda: linear(rows), device)


def _bytes_per_s(device: torch.device) -> float:
    count = _STREAM_BYTES * (16 if device.type == "cuda" else 1) // 4
    numbers = torch.ones(count, device=device)
    return 4 * count / _fastest_s(numbers.sum, device)


def _layer_overhead_s(device: torch.device) -> float:
    tiny = LlamaConfig(
        vocab_size=8,
        hidden_size=_TINY_WIDTH,
        intermediate_size=_TINY_WIDTH,
        num_attention_heads=2,
        num_key_value_heads=1,
        num_hidden_layers=_TINY_LAYERS,
        use_cache=False,
    )
    model: torch.nn.Module = LlamaModel(tiny)
    model = model.to(device).eval()
    token = torch.zeros(1, 1, dtype=torch.int64, device=device)
    return _fastest_s(lambda: model(token), device) / _TINY_LAYERS


def _fastest_s(work: Callable[[], object], device: torch.device) -> float:
    """Seconds of the fastest of some runs; other work on the machine only ever adds."""
    work()
    fastest, end = float("inf"), time.perf_counter() + _BUDGET_S
    while time.perf_counter() < end or fastest == float("inf"):
        _wait(device)
        begin = time.perf_counter()
        work()
        _wait(device)
        fastest = min(fastest, time.perf_counter() - begin)
    return fastest


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
