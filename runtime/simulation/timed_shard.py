"""An emulated shard that charges its device what a real one of the same layers would take.

It computes nothing of its own: tokens and KV are the emulated shard's, time is the roofline's.
"""

from typing import Protocol

import numpy as np
import numpy.typing as npt

from models.forward_batch import ForwardBatch
from models.interface import Bytes, ForwardResult
from runtime.simulation.quick_shard import WORD_BYTES, QuickShard
from scheduling.roofline import LinkRate, ModelShape, StageTime
from scheduling.split import StageDevice


class Meter(Protocol):
    """Where time is charged to."""

    def charge(self, seconds: float, sending_s: float = 0.0) -> None:
        """Have what runs now take so long, and its result so much longer to leave on a link."""
        ...

    def charge_step(self, seconds: float, sending_s: float, num_tokens: int) -> None:
        """`charge`, of a step."""
        ...


class TimedShard:
    """A `Shard` on a device with given rates, whose results leave over a given link."""

    def __init__(
        self,
        emulated: QuickShard,
        rates: StageDevice,
        shape: ModelShape,
        link: LinkRate,
        meter: Meter,
    ) -> None:
        self.emulated = emulated
        self._rates, self._shape, self._link, self._meter = rates, shape, link, meter
        self._time_s = StageTime(rates, shape, emulated.layers)
        self._token_bytes = shape.token_bytes

    @property
    def layers(self) -> tuple[int, int]:
        """The half-open layer range."""
        return self.emulated.layers

    @property
    def num_blocks(self) -> int:
        """KV blocks: N."""
        return self.emulated.num_blocks

    @property
    def block_tokens(self) -> int:
        """Tokens in a KV block: P."""
        return self.emulated.block_tokens

    @property
    def resident_bytes(self) -> int:
        """What a real shard's weights would take."""
        num_layers = self.layers[1] - self.layers[0]
        return num_layers * self._shape.layer_parameters * self._shape.dtype_bytes

    def forward(self, batch: ForwardBatch, hidden: memoryview | None) -> ForwardResult:
        """Run the layers, and charge the step and what it sends."""
        step = self.emulated.read(batch)
        result = self.emulated.run(batch, step, hidden)
        sending_s = 0.0
        if result.hidden is not None:
            sending_s = step.work.num_tokens * self._token_bytes / self._link.bytes_per_s
        self._meter.charge_step(self._time_s.of(step.work), sending_s, batch.num_tokens)
        return result

    def narrowed(self, start: int, end: int) -> "TimedShard":
        """A view on some of the layers, sharing their cache with this shard."""
        part = self.emulated.narrowed(start, end)
        return TimedShard(part, self._rates, self._shape, self._link, self._meter)

    def over(self, link: LinkRate) -> "TimedShard":
        """A view whose results leave over another link."""
        return TimedShard(self.emulated, self._rates, self._shape, link, self._meter)

    def read_blocks(self, layer: int, block_ids: npt.NDArray[np.int32]) -> bytes:
        """The entries of some blocks, whose real KV is read and then sent."""
        data = self.emulated.read_blocks(layer, block_ids)
        num_bytes = self._kv_bytes(len(data))
        reading_s = num_bytes / self._rates.bytes_per_s
        self._meter.charge(reading_s, num_bytes / self._link.bytes_per_s)
        return data

    def write_blocks(self, layer: int, block_ids: npt.NDArray[np.int32], data: Bytes) -> None:
        """Put back what `read_blocks` gave."""
        self.emulated.write_blocks(layer, block_ids, data)
        self._meter.charge(self._kv_bytes(memoryview(data).nbytes) / self._rates.bytes_per_s)

    def copy_blocks(self, sources: npt.NDArray[np.int32], targets: npt.NDArray[np.int32]) -> None:
        """Copy blocks onto others in every layer."""
        self.emulated.copy_blocks(sources, targets)
        num_tokens = len(sources) * self.block_tokens * (self.layers[1] - self.layers[0])
        self._meter.charge(
            2 * num_tokens * self._shape.kv_bytes_per_token / self._rates.bytes_per_s
        )

    def _kv_bytes(self, num_bytes: int) -> int:
        return num_bytes // WORD_BYTES * self._shape.kv_bytes_per_token
