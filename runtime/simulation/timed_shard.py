"""An emulated shard that charges its device what a real one of the same layers would take.

It computes nothing of its own: tokens and KV are the emulated shard's, time is the roofline's.
"""

from typing import Protocol

import numpy as np
import numpy.typing as npt

from models.forward_batch import ForwardBatch
from models.interface import Bytes, ForwardResult
from models.kv_encoding import BlockShape, KvEncoding, encoded_bytes
from runtime.simulation.groups import ALONE, Group
from runtime.simulation.line import Line
from runtime.simulation.quick_shard import QuickShard
from scheduling.kv_transport import DECODE_PASSES, ENCODE_PASSES
from scheduling.roofline import LinkRate, ModelShape, StageTime
from scheduling.split import StageDevice


class Meter(Protocol):
    """Where time is charged to."""

    def charge(self, seconds: float, sending_s: float = 0.0, line: Line | None = None) -> None:
        """Have what runs now take so long, and its result so much longer to leave on a link."""
        ...

    def charge_step(
        self, seconds: float, sending_s: float, num_tokens: int, line: Line | None
    ) -> None:
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
        *,
        line: Line | None = None,
        group: Group = ALONE,
    ) -> None:
        """`line` is what the link shares with others, `group` how many devices it is on."""
        self.emulated, self._line, self._group = emulated, line, group
        self._rates, self._shape, self._link, self._meter = rates, shape, link, meter
        self._time_s = StageTime(rates, shape, emulated.layers)
        self._token_bytes = shape.token_bytes
        self._num_layers = self.layers[1] - self.layers[0]

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
        return self._num_layers * self._shape.layer_parameters * self._shape.dtype_bytes

    def forward(self, batch: ForwardBatch, hidden: memoryview | None) -> ForwardResult:
        """Run the layers, and charge the step and what it sends."""
        step = self.emulated.read(batch)
        result = self.emulated.run(batch, step, hidden)
        num_bytes = step.work.num_tokens * self._token_bytes
        sending_s = num_bytes / self._link.bytes_per_s if result.hidden is not None else 0.0
        took_s = self._time_s.of(step.work) + self._group.told_s(self._num_layers, num_bytes)
        self._meter.charge_step(took_s, sending_s, batch.num_tokens, self._line)
        return result

    def narrowed(self, start: int, end: int) -> "TimedShard":
        """A view on some of the layers, sharing their cache with this shard."""
        part = self.emulated.narrowed(start, end)
        return self._with(part, self._link, self._line)

    def over(self, link: LinkRate, line: Line | None = None) -> "TimedShard":
        """A view whose results leave over another link."""
        return self._with(self.emulated, link, line)

    def _with(self, emulated: QuickShard, link: LinkRate, line: Line | None) -> "TimedShard":
        return TimedShard(
            emulated, self._rates, self._shape, link, self._meter, line=line, group=self._group
        )

    def block_bytes(self, encoding: KvEncoding = "none") -> int:
        """What a real block of one layer takes on the way."""
        shape = self._shape
        block = BlockShape(
            num_heads=shape.num_kv_heads,
            block_tokens=self.block_tokens,
            head_dim=shape.head_dim,
            itemsize=shape.dtype_bytes,
        )
        return encoded_bytes(1, block, encoding)

    def read_blocks(
        self, layer: int, block_ids: npt.NDArray[np.int32], encoding: KvEncoding = "none"
    ) -> bytes:
        """The entries of some blocks, whose real KV is read, encoded and then sent."""
        data = self.emulated.read_blocks(layer, block_ids, encoding)
        sending_s = len(block_ids) * self.block_bytes(encoding) / self._link.bytes_per_s
        passes = 1.0 if encoding == "none" else ENCODE_PASSES
        self._meter.charge(passes * self._reading_s(block_ids), sending_s, self._line)
        return data

    def write_blocks(
        self,
        layer: int,
        block_ids: npt.NDArray[np.int32],
        data: Bytes,
        encoding: KvEncoding = "none",
    ) -> None:
        """Put back what `read_blocks` gave."""
        self.emulated.write_blocks(layer, block_ids, data, encoding)
        passes = 1.0 if encoding == "none" else DECODE_PASSES
        self._meter.charge(passes * self._reading_s(block_ids))

    def copy_blocks(self, sources: npt.NDArray[np.int32], targets: npt.NDArray[np.int32]) -> None:
        """Copy blocks onto others in every layer."""
        self.emulated.copy_blocks(sources, targets)
        num_tokens = len(sources) * self.block_tokens * self._num_layers
        self._meter.charge(
            2 * num_tokens * self._shape.kv_bytes_per_token / self._rates.bytes_per_s
        )

    def _reading_s(self, block_ids: npt.NDArray[np.int32]) -> float:
        """How long the device takes to read some blocks of one layer once."""
        return len(block_ids) * self.block_bytes() / self._rates.bytes_per_s
