"""What one microbatch costs on one layer of one machine, by ShuntServe's formulas.

The one idea: a layer is three groups of kernels (projections, attention, feed-forward), and each is
bound by arithmetic or by bytes, whichever its intensity says. Floors stand where the source has
them, so that its predictions are met to the last digit.

Source: ShuntServe, arXiv 2606.18600, equations of the estimator.
"""

from typing import NamedTuple

from scheduling.roofline import ModelShape
from scheduling.shuntserve.catalogue import InstanceType

LINK_BYTES_PER_S = 5e9
"""Between machines."""
LINK_LATENCY_S = 1e-3


class RequestLengths(NamedTuple):
    """What every request is taken to be; the defaults are the paper's workload.

    Attributes:
        prompt_tokens: of one request.
        output_tokens: of one request.
        max_batch_tokens: the most prompt tokens of one microbatch.
    """

    prompt_tokens: int = 763
    output_tokens: int = 232
    max_batch_tokens: int = 8192


class MicrobatchTimes:
    """Seconds of a microbatch, remembered by machine and size."""

    def __init__(self, shape: ModelShape, lengths: RequestLengths) -> None:
        """Take the model's shape and the lengths of its requests."""
        self._shape = shape
        self._lengths = lengths
        self._layers: dict[tuple[InstanceType, int, bool], float] = {}
        self._ends: dict[tuple[InstanceType, int, bool, bool], float] = {}

    def layer_s(self, instance: InstanceType, batch: int, *, decode: bool) -> float:
        """One layer with its tensor-parallel collectives; in decode, over all output tokens.

        Args:
            instance: the machine.
            batch: sequences of the microbatch.
            decode: whether it generates, rather than reads the prompt.
        """
        key = (instance, batch, decode)
        if key not in self._layers:
            self._layers[key] = self._layer(instance, batch, decode=decode)
        return self._layers[key]

    def end_s(self, instance: InstanceType, batch: int, *, decode: bool, last: bool) -> float:
        """What a stage adds to its layers: the output matrix if it is the last, else the send."""
        key = (instance, batch, decode, last)
        if key not in self._ends:
            steps = self._lengths.output_tokens if decode else 1
            tokens = batch if decode else batch * self._lengths.prompt_tokens
            if last:
                self._ends[key] = self._logits(instance, batch, tokens, steps)
            else:
                size = tokens * self._shape.hidden * self._shape.dtype_bytes
                self._ends[key] = steps * (size / LINK_BYTES_PER_S + LINK_LATENCY_S)
        return self._ends[key]

    def _layer(self, instance: InstanceType, batch: int, *, decode: bool) -> float:
        groups = (self._decode if decode else self._prefill)(instance.num_gpus, batch)
        seconds = sum(self._bound_s(instance, ops, elements) for ops, elements in groups)
        steps = self._lengths.output_tokens if decode else 1
        tokens = batch if decode else batch * self._lengths.prompt_tokens
        degree = instance.num_gpus
        sent = 4 * (degree - 1) * tokens * self._shape.hidden * self._shape.dtype_bytes
        return seconds + steps * sent / (degree * instance.intra_bytes_per_s)

    def _logits(self, instance: InstanceType, batch: int, tokens: int, steps: int) -> float:
        shape, degree = self._shape, instance.num_gpus
        ops = 2 * batch * steps * shape.hidden * shape.vocab // degree
        elements = steps * (batch * shape.hidden + shape.vocab * shape.hidden / degree)
        sent = 2 * (degree - 1) * tokens * shape.vocab * shape.dtype_bytes
        gather = steps * sent / (degree * instance.intra_bytes_per_s)
        return self._bound_s(instance, ops, elements) + gather

    def _bound_s(self, instance: InstanceType, ops: int, elements: float) -> float:
        size = elements * self._shape.dtype_bytes
        if ops / size < instance.flops_per_s / instance.bytes_per_s:
            return size / instance.bytes_per_s
        return ops / instance.flops_per_s

    def _prefill(self, t: int, b: int) -> tuple[tuple[int, int], ...]:
        h, i, q, k = self._sizes()
        s = self._lengths.prompt_tokens
        return (
            (((2 * s * h * q + 4 * s * h * k) // t) * b, b * s * h + (h * q + 2 * h * k) // t),
            (
                ((2 * (2 * s * s * q + s * q * q)) // t) * b,
                (b * s * h + 2 * s * k + q * q) // t,
            ),
            (
                (6 * s * h * i // t) * b,
                b * s * h + 2 * h * i // t + 2 * b * s * i // t + b * s * i // t + i * h // t,
            ),
        )

    def _decode(self, t: int, b: int) -> tuple[tuple[int, int], ...]:
        h, i, q, k = self._sizes()
        s, o = self._lengths.prompt_tokens, self._lengths.output_tokens
        return (
            ((2 * (h * q + 2 * h * k) // t) * b * o, (b * h + (h * q + 2 * h * k) // t) * o),
            (
                ((4 * s * o * q + 2 * q * o * (o + 1) + 2 * q * q * o) // t) * b,
                (b * h * o + 2 * b * s * k * o + b * k * o * (o + 1) + q * q * o) // t,
            ),
            (
                (6 * h * i // t) * b * o,
                (b * h + 2 * h * i // t + 2 * b * i // t + b * i // t + i * h // t) * o,
            ),
        )

    def _sizes(self) -> tuple[int, int, int, int]:
        """Hidden width, feed-forward width, width of all query heads, width of all KV heads."""
        shape = self._shape
        heads, kv_heads = shape.num_heads * shape.head_dim, shape.num_kv_heads * shape.head_dim
        return shape.hidden, shape.intermediate, heads, kv_heads
