"""How long a stage's step and a transfer take, from what a device and a link can do.

The one idea: work is bound by arithmetic or by the bytes it reads, whichever takes longer (the
roofline of Williams, Waterman, Patterson, CACM 2009). A step has three kinds of work, one after
another, each with its own bound: the layers' matrices, attention over the KV cache, the head.

It works on plain numbers and never knows a clock, a tensor, or whether anybody measured them.
"""

from dataclasses import dataclass

from scheduling.split import ModelCost, StageDevice


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """The numbers of a decoder that fix what its parts weigh and compute.

    Attributes:
        num_layers: decoder layers.
        hidden: width of a hidden state.
        num_heads: attention heads.
        num_kv_heads: heads of keys and values.
        head_dim: width of a head.
        intermediate: width of the feed-forward part, which is gated: three matrices.
        vocab: size of the vocabulary.
        dtype_bytes: bytes of a number, in weights, KV and hidden states.
        tied: whether the head is the embedding.

    Example:
        >>> shape = ModelShape(num_layers=80, hidden=8192, num_heads=64, num_kv_heads=8,
        ...                    head_dim=128, intermediate=28672, vocab=128256)
        >>> round(shape.num_parameters / 1e9, 1)
        70.6
    """

    num_layers: int
    hidden: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate: int
    vocab: int
    dtype_bytes: int = 2
    tied: bool = False

    @property
    def layer_parameters(self) -> int:
        """Weights of one layer."""
        attention = 2 * self.hidden * self.head_dim * (self.num_heads + self.num_kv_heads)
        return attention + 3 * self.hidden * self.intermediate

    @property
    def head_parameters(self) -> int:
        """Weights of the output matrix, which are as many as the embedding's."""
        return self.hidden * self.vocab

    @property
    def num_parameters(self) -> int:
        """Weights of the whole model."""
        return self.num_layers * self.layer_parameters + (2 - self.tied) * self.head_parameters

    @property
    def kv_bytes_per_token(self) -> int:
        """KV cache of one token in one layer."""
        return 2 * self.num_kv_heads * self.head_dim * self.dtype_bytes

    @property
    def token_bytes(self) -> int:
        """One token's hidden state, as it travels between stages."""
        return self.hidden * self.dtype_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class StepWork:
    """What one step asks of every stage.

    Attributes:
        num_tokens: tokens that pass the layers.
        num_pairs: over these tokens, the positions that each of them attends to.
        num_context: KV entries that are read, each sequence's once.
        num_drawn: tokens that are drawn at the head.
    """

    num_tokens: int
    num_pairs: int
    num_context: int
    num_drawn: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkRate:
    """What lies between two places."""

    bytes_per_s: float
    latency_s: float


def model_cost(shape: ModelShape, *, num_kv_tokens: int) -> ModelCost:
    """What a model's parts weigh and compute, as a split of its layers needs it.

    Args:
        shape: the model's.
        num_kv_tokens: tokens that the KV cache must hold at least.
    """
    head_bytes = shape.head_parameters * shape.dtype_bytes
    return ModelCost(
        layer_bytes=(shape.layer_parameters * shape.dtype_bytes,) * shape.num_layers,
        layer_flops=(2.0 * shape.layer_parameters,) * shape.num_layers,
        embedding_bytes=head_bytes,
        head_bytes=head_bytes,
        head_flops=2.0 * shape.head_parameters,
        tied=shape.tied,
        kv_bytes_per_token=shape.kv_bytes_per_token,
        num_kv_tokens=num_kv_tokens,
    )


class StageTime:
    """How long a device takes for its layers' part of a step, whatever step.

    For each of the `n` layers, and for the head on the last stage,

        matrices   max(weights / bytes_per_s, T * 2 * weights' number / flops_per_s)
        attention  max(context * KV bytes / bytes_per_s, pairs * 4 * heads * head_dim / flops_per_s)
        head       max(weights / bytes_per_s, drawn * 2 * weights' number / flops_per_s)

    and `layer_overhead_s` for starting it. Where nothing is drawn, the head is not read.
    """

    __slots__ = (
        "_attention_bytes",
        "_attention_flops",
        "_bytes_per_s",
        "_count",
        "_flops_per_s",
        "_has_head",
        "_head_flops",
        "_head_s",
        "_matrices_flops",
        "_matrices_s",
        "_overhead_s",
    )

    def __init__(self, device: StageDevice, shape: ModelShape, layers: tuple[int, int]) -> None:
        """Of a device that has the layers `[start, end)` of a model."""
        self._bytes_per_s, self._flops_per_s = device.bytes_per_s, device.flops_per_s
        self._overhead_s = device.layer_overhead_s
        self._count = layers[1] - layers[0]
        self._matrices_s = shape.layer_parameters * shape.dtype_bytes / device.bytes_per_s
        self._matrices_flops = 2.0 * shape.layer_parameters
        self._attention_bytes = shape.kv_bytes_per_token
        self._attention_flops = 4.0 * shape.num_heads * shape.head_dim
        self._has_head = layers[1] == shape.num_layers
        self._head_s = shape.head_parameters * shape.dtype_bytes / device.bytes_per_s
        self._head_flops = 2.0 * shape.head_parameters

    def of(self, work: StepWork) -> float:
        """Seconds that the step takes."""
        flops_per_s = self._flops_per_s
        matrices = max(self._matrices_s, self._matrices_flops * work.num_tokens / flops_per_s)
        attention = max(
            self._attention_bytes * work.num_context / self._bytes_per_s,
            self._attention_flops * work.num_pairs / flops_per_s,
        )
        seconds = self._count * (matrices + attention + self._overhead_s)
        if self._has_head and work.num_drawn:
            seconds += max(self._head_s, self._head_flops * work.num_drawn / flops_per_s)
        return seconds


def stage_time_s(
    device: StageDevice, shape: ModelShape, layers: tuple[int, int], work: StepWork
) -> float:
    """Seconds that a device takes for its layers' part of one step; see `StageTime`."""
    return StageTime(device, shape, layers).of(work)


def transfer_time_s(link: LinkRate, num_bytes: float) -> float:
    """Seconds until the last of some bytes has arrived, on a link that carries nothing else."""
    return link.latency_s + num_bytes / link.bytes_per_s
