"""Devices and models that a cluster file can name instead of describing them.

A device's rates are what serving reaches, not what its name plate promises: about four fifths of
the peak of dense half-precision arithmetic and of memory bandwidth. They are for comparing plans; a
plan that matters deserves measured rates, which a cluster file can give.
"""

from scheduling.roofline import ModelShape
from scheduling.split import StageDevice

GB = 10**9
_GPU_LAYER_OVERHEAD_S = 30e-6
_CPU_LAYER_OVERHEAD_S = 200e-6


def _gpu(memory_gb: float, teraflops: float, gbytes_per_s: float) -> StageDevice:
    return StageDevice(
        memory_bytes=int(memory_gb * GB),
        flops_per_s=teraflops * 1e12,
        bytes_per_s=gbytes_per_s * 1e9,
        layer_overhead_s=_GPU_LAYER_OVERHEAD_S,
    )


DEVICES = {
    "T4": _gpu(16, 52, 256),
    "V100": _gpu(16, 100, 720),
    "A10G": _gpu(24, 56, 480),
    "L4": _gpu(24, 97, 240),
    "4090": _gpu(24, 132, 800),
    "A40": _gpu(48, 120, 556),
    "A6000": _gpu(48, 124, 614),
    "L40S": _gpu(48, 290, 690),
    "A100-40G": _gpu(40, 250, 1240),
    "A100-80G": _gpu(80, 250, 1630),
    "H100": _gpu(80, 790, 2680),
    "H200": _gpu(141, 790, 3840),
    "cpu": StageDevice(
        memory_bytes=16 * GB,
        flops_per_s=0.5e12,
        bytes_per_s=30e9,
        layer_overhead_s=_CPU_LAYER_OVERHEAD_S,
    ),
}

MODELS = {
    "llama-1b": ModelShape(
        num_layers=16,
        hidden=2048,
        num_heads=32,
        num_kv_heads=8,
        head_dim=64,
        intermediate=8192,
        vocab=128256,
        tied=True,
    ),
    "llama-8b": ModelShape(
        num_layers=32,
        hidden=4096,
        num_heads=32,
        num_kv_heads=8,
        head_dim=128,
        intermediate=14336,
        vocab=128256,
    ),
    "llama-30b": ModelShape(
        num_layers=60,
        hidden=6656,
        num_heads=52,
        num_kv_heads=52,
        head_dim=128,
        intermediate=17920,
        vocab=32000,
    ),
    "llama2-70b": ModelShape(
        num_layers=80,
        hidden=8192,
        num_heads=64,
        num_kv_heads=8,
        head_dim=128,
        intermediate=28672,
        vocab=32000,
    ),
    "llama2-70b-int8": ModelShape(
        num_layers=80,
        hidden=8192,
        num_heads=64,
        num_kv_heads=8,
        head_dim=128,
        intermediate=28672,
        vocab=32000,
        dtype_bytes=1,
    ),
    "llama-70b": ModelShape(
        num_layers=80,
        hidden=8192,
        num_heads=64,
        num_kv_heads=8,
        head_dim=128,
        intermediate=28672,
        vocab=128256,
    ),
    "qwen3-32b": ModelShape(
        num_layers=64,
        hidden=5120,
        num_heads=64,
        num_kv_heads=8,
        head_dim=128,
        intermediate=25600,
        vocab=151936,
    ),
}
