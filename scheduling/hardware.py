"""What kinds of devices there are: what their name plates promise, and what serving reaches of it.

The one idea: a planner counts on reached rates. A kind has both, the published peak and the part of
it that was seen when serving, with where each comes from, so that a doubtful plan can be traced to
the number it hangs on. Calibration (`scheduling.calibration`) replaces the parts by measured ones.
"""

from dataclasses import dataclass, replace
from types import MappingProxyType

from scheduling.split import StageDevice

GB = 10**9
_USUAL_PART = 0.8
_GPU_LAYER_OVERHEAD_S = 30e-6
_CPU_LAYER_OVERHEAD_S = 200e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceKind:
    """One type of accelerator.

    Attributes:
        name: as cluster files say it.
        memory_bytes: all of its memory.
        peak_flops_per_s: dense half-precision arithmetic of the data sheet, without sparsity.
        peak_bytes_per_s: memory bandwidth of the data sheet.
        flops_part: how much of the peak arithmetic serving reaches.
        bytes_part: how much of the peak bandwidth serving reaches.
        layer_overhead_s: what a layer costs whatever its size, to start its operations.
        step_overhead_s: what a step costs whatever its layers.
        price_per_hour: what one costs where rented, in dollars; 0 where nobody rents it out.
        source: where the numbers come from.
    """

    name: str
    memory_bytes: int
    peak_flops_per_s: float
    peak_bytes_per_s: float
    flops_part: float = _USUAL_PART
    bytes_part: float = _USUAL_PART
    layer_overhead_s: float = _GPU_LAYER_OVERHEAD_S
    step_overhead_s: float = 0.0
    price_per_hour: float = 0.0
    source: str = ""

    @classmethod
    def measured(
        cls, name: str, rates: StageDevice, *, price_per_hour: float = 0.0, source: str = ""
    ) -> "DeviceKind":
        """A kind of which is known what it reaches: nothing is taken off of that."""
        return cls(
            name=name,
            memory_bytes=rates.memory_bytes,
            peak_flops_per_s=rates.flops_per_s,
            peak_bytes_per_s=rates.bytes_per_s,
            flops_part=1.0,
            bytes_part=1.0,
            layer_overhead_s=rates.layer_overhead_s,
            step_overhead_s=rates.step_overhead_s,
            price_per_hour=price_per_hour,
            source=source,
        )

    @property
    def rates(self) -> StageDevice:
        """What a stage can count on."""
        return StageDevice(
            memory_bytes=self.memory_bytes,
            flops_per_s=self.peak_flops_per_s * self.flops_part,
            bytes_per_s=self.peak_bytes_per_s * self.bytes_part,
            layer_overhead_s=self.layer_overhead_s,
            step_overhead_s=self.step_overhead_s,
        )

    def scaled(self, *, flops: float = 1.0, num_bytes: float = 1.0) -> "DeviceKind":
        """The same kind with other reached rates, for a sweep over what is uncertain."""
        return replace(
            self, flops_part=self.flops_part * flops, bytes_part=self.bytes_part * num_bytes
        )


def _kind(
    name: str, memory_gb: float, teraflops: float, gbytes_per_s: float, price: float, source: str
) -> DeviceKind:
    return DeviceKind(
        name=name,
        memory_bytes=int(memory_gb * GB),
        peak_flops_per_s=teraflops * 1e12,
        peak_bytes_per_s=gbytes_per_s * 1e9,
        price_per_hour=price,
        source=source,
    )


_NVIDIA = "NVIDIA data sheet"
_RENTED = "NVIDIA data sheet; price of arXiv 2502.00722"
_AWS = "NVIDIA data sheet; on-demand price of its AWS instance, per GPU"

_KINDS = (
    _kind("T4", 16, 65, 320, 0.526, _AWS),
    _kind("V100", 16, 125, 900, 3.06, _AWS),
    _kind("A10G", 24, 70, 600, 1.418, _AWS),
    _kind("L4", 24, 121, 300, 1.1504, _AWS),
    _kind("L40", 48, 181, 864, 0.90, _RENTED),
    _kind("L40S", 48, 362, 864, 1.861, _AWS),
    _kind("A40", 48, 149.7, 696, 0.55, _RENTED),
    _kind("A5000", 24, 111, 768, 0.0, _NVIDIA),
    _kind("A6000", 48, 154.8, 768, 0.83, _RENTED),
    _kind("3090", 24, 71, 936, 0.0, "NVIDIA GA102 white paper, FP16 with FP32 accumulation"),
    _kind("3090Ti", 24, 80, 1008, 0.0, "NVIDIA GA102 white paper, scaled by clock and cores"),
    _kind("4090", 24, 165, 1008, 0.53, "NVIDIA Ada white paper; price of arXiv 2502.00722"),
    _kind("A100-40G", 40, 312, 1555, 4.10, _AWS),
    _kind("A100-80G", 80, 312, 2039, 1.75, _RENTED),
    _kind("H100", 80, 989.5, 3350, 2.99, _RENTED),
    _kind("H200", 141, 989.5, 4800, 0.0, _NVIDIA),
    _kind("MI300X", 192, 1307, 5300, 0.0, "AMD data sheet"),
    DeviceKind(
        name="cpu",
        memory_bytes=16 * GB,
        peak_flops_per_s=0.625e12,
        peak_bytes_per_s=37.5e9,
        layer_overhead_s=_CPU_LAYER_OVERHEAD_S,
        source="a desktop of 8 cores with two channels of memory; measure yours",
    ),
)

CATALOGUE = MappingProxyType({kind.name: kind for kind in _KINDS})
"""All kinds by name. The reached part is four fifths of each peak unless measured: between the
70-82 % of arithmetic and the 53-67 % of bandwidth that DistServe's fits show on an A100 at batch 1
and the more that larger batches reach. Plans are compared by it; a sweep says what hangs on it."""
