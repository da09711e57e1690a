"""The machines and models of ShuntServe's experiments, with the constants it calibrated.

The one idea: these are the published figures of that estimator, not data sheets; they belong to
its strict mode (`scheduling.shuntserve.estimator`) and to nothing else.

Source: ShuntServe, arXiv 2606.18600 (FGCS 186, 108760).
"""

from dataclasses import dataclass

from scheduling.roofline import ModelShape


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)  # a key of caches: by identity
class InstanceType:
    """A rented machine; its tensor-parallel degree is the number of its GPUs.

    Attributes:
        name: the cloud's name for it.
        num_gpus: GPUs, all alike.
        gpu_memory_mb: memory of one GPU, in 1e6 bytes.
        flops_per_s: calibrated arithmetic rate of one GPU.
        bytes_per_s: calibrated memory rate of one GPU.
        intra_bytes_per_s: between the GPUs of the machine.
        spot_per_hour: price on the spot market, in dollars.
        on_demand_per_hour: price on demand, in dollars.
    """

    name: str
    num_gpus: int
    gpu_memory_mb: float
    flops_per_s: float
    bytes_per_s: float
    intra_bytes_per_s: float
    spot_per_hour: float
    on_demand_per_hour: float


G5_12XLARGE = InstanceType(
    name="g5.12xlarge",
    num_gpus=4,
    gpu_memory_mb=22494,
    flops_per_s=70e12,
    bytes_per_s=480e9,
    intra_bytes_per_s=1.4e9,
    spot_per_hour=2.2915,
    on_demand_per_hour=5.672,
)
G6_12XLARGE = InstanceType(
    name="g6.12xlarge",
    num_gpus=4,
    gpu_memory_mb=22494,
    flops_per_s=55e12,
    bytes_per_s=250e9,
    intra_bytes_per_s=3.5e9,
    spot_per_hour=1.9445,
    on_demand_per_hour=4.6016,
)
G6E_XLARGE = InstanceType(
    name="g6e.xlarge",
    num_gpus=1,
    gpu_memory_mb=44988,
    flops_per_s=196e12,
    bytes_per_s=700e9,
    intra_bytes_per_s=3.5e9,
    spot_per_hour=0.7040,
    on_demand_per_hour=1.861,
)

AWS_STOCK: dict[InstanceType, int] = {G5_12XLARGE: 2, G6_12XLARGE: 3, G6E_XLARGE: 4}
"""The paper's cluster: which machines, and how many of each."""

LLAMA_31_70B = ModelShape(
    num_layers=80,
    hidden=8192,
    num_heads=64,
    num_kv_heads=8,
    head_dim=128,
    intermediate=28672,
    vocab=128256,
)
