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
        num_experts: feed-forward parts of a layer, each of width `intermediate`; 0 is one, dense.
        num_active_experts: how many of them a token passes.
        shared_intermediate: width of the part that every token passes besides its experts.
        weight_bytes: bytes of a layer's weight where it is quantised; 0 is `dtype_bytes`.
        window: positions that a sliding layer attends to; 0 where none slides.
        num_window_layers: layers that slide.

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
    num_experts: int = 0
    num_active_experts: int = 0
    shared_intermediate: int = 0
    weight_bytes: float = 0.0
    window: int = 0
    num_window_layers: int = 0

    @property
    def layer_parameters(self) -> int:
        """Weights of one layer, all experts included."""
        return self._common_parameters + max(1, self.num_experts) * self._expert_parameters

    @property
    def active_parameters(self) -> int:
        """Weights of one layer that a token is multiplied with."""
        return self._common_parameters + max(1, self.num_active_experts) * self._expert_parameters

    @property
    def layer_weight_bytes(self) -> float:
        """Bytes of one layer's weights."""
        return self.layer_parameters * self.parameter_bytes

    @property
    def parameter_bytes(self) -> float:
        """Bytes of one weight of a layer."""
        return self.weight_bytes or self.dtype_bytes

    @property
    def is_sparse(self) -> bool:
        """Whether a token passes only some of a layer's experts."""
        return self.num_experts > self.num_active_experts

    def read_bytes(self, num_tokens: float) -> float:
        """Bytes of one layer's weights that a step of some tokens reads, routed evenly.

        An expert is left alone by all of `T` tokens with probability `(1 - active / experts)^T`.
        """
        used = float(max(1, self.num_experts))
        if self.is_sparse:
            used *= 1.0 - (1.0 - self.num_active_experts / self.num_experts) ** num_tokens
        return (self._common_parameters + used * self._expert_parameters) * self.parameter_bytes

    def kv_positions(self, context: float) -> float:
        """Positions that a layer keeps and reads of a context, as the mean over the layers."""
        if not self.num_window_layers:
            return context
        sliding = self.num_window_layers / self.num_layers
        return (1 - sliding) * context + sliding * min(context, self.window)

    @property
    def _common_parameters(self) -> int:
        attention = 2 * self.hidden * self.head_dim * (self.num_heads + self.num_kv_heads)
        routed = self.hidden * self.num_experts
        return attention + routed + 3 * self.hidden * self.shared_intermediate

    @property
    def _expert_parameters(self) -> int:
        return 3 * self.hidden * self.intermediate

    @property
    def head_parameters(self) -> int:
        """Weights of the output matrix, which are as many as the embedding's."""
        return self.hidden * self.vocab

    @property
    def num_parameters(self) -> int:
        """Weights of the whole model."""
        return self.num_layers * self.layer_parameters + (2 - self.tied) * self.head_parameters

    @property
    def total_bytes(self) -> float:
        """Bytes of the whole model's weights."""
        ends = (2 - self.tied) * self.head_parameters * self.dtype_bytes
        return self.num_layers * self.layer_weight_bytes + ends

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

    The counts of a real step are whole; those of an average step need not be.
    """

    num_tokens: float
    num_pairs: float
    num_context: float
    num_drawn: float


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
        layer_bytes=(round(shape.layer_weight_bytes),) * shape.num_layers,
        layer_flops=(2.0 * shape.active_parameters,) * shape.num_layers,
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
        "_flops_per_s",
        "_has_head",
        "_head_flops",
        "_head_s",
        "_matrices_flops",
        "_matrices_s",
        "_num_layers",
        "_overhead_s",
        "_shape",
    )

    def __init__(self, device: StageDevice, shape: ModelShape, layers: tuple[int, int]) -> None:
        """Of a device that has the layers `[start, end)` of a model."""
        self._shape = shape
        self._bytes_per_s, self._flops_per_s = device.bytes_per_s, device.flops_per_s
        self._overhead_s = device.layer_overhead_s
        self._num_layers = layers[1] - layers[0]
        self._matrices_s = None if shape.is_sparse else shape.read_bytes(1) / device.bytes_per_s
        self._matrices_flops = 2.0 * shape.active_parameters
        self._attention_bytes = shape.kv_bytes_per_token
        self._attention_flops = 4.0 * shape.num_heads * shape.head_dim
        self._has_head = layers[1] == shape.num_layers
        self._head_s = shape.head_parameters * shape.dtype_bytes / device.bytes_per_s
        self._head_flops = 2.0 * shape.head_parameters

    def of(self, work: StepWork) -> float:
        """Seconds that the step takes."""
        seconds = self._num_layers * self.of_layer(work)
        return seconds + self.of_head(work) if self._has_head else seconds

    def of_layer(self, work: StepWork) -> float:
        """Seconds for one of the layers."""
        flops_per_s, num_tokens = self._flops_per_s, work.num_tokens
        read_s = self._matrices_s
        if read_s is None:
            read_s = self._shape.read_bytes(num_tokens) / self._bytes_per_s
        matrices = max(read_s, self._matrices_flops * num_tokens / flops_per_s)
        attention = max(
            self._attention_bytes * work.num_context / self._bytes_per_s,
            self._attention_flops * work.num_pairs / flops_per_s,
        )
        return matrices + attention + self._overhead_s

    def of_head(self, work: StepWork) -> float:
        """Seconds for the head, which is not read where nothing is drawn."""
        if not work.num_drawn:
            return 0.0
        return max(self._head_s, self._head_flops * work.num_drawn / self._flops_per_s)


def stage_time_s(
    device: StageDevice, shape: ModelShape, layers: tuple[int, int], work: StepWork
) -> float:
    """Seconds that a device takes for its layers' part of one step; see `StageTime`."""
    return StageTime(device, shape, layers).of(work)


def tensor_parallel(device: StageDevice, degree: int) -> StageDevice:
    """Some equal devices that share every layer, as one device; without what they tell each other.

    Each of them still starts all operations, so that the overhead stays.
    """
    return StageDevice(
        memory_bytes=device.memory_bytes * degree,
        flops_per_s=device.flops_per_s * degree,
        bytes_per_s=device.bytes_per_s * degree,
        layer_overhead_s=device.layer_overhead_s,
    )


def all_reduce_time_s(link: LinkRate, degree: int, num_bytes: float) -> float:
    """Seconds of an all-reduce by a ring: each sends and gets `2 (t - 1) / t` of the bytes.

    Source: Patarasuk, Yuan, Bandwidth optimal all-reduce algorithms, JPDC 2009.
    """
    if degree == 1:
        return 0.0
    steps = 2 * (degree - 1)
    return steps * (link.latency_s + num_bytes / degree / link.bytes_per_s)


def transfer_time_s(link: LinkRate, num_bytes: float) -> float:
    """Seconds until the last of some bytes has arrived, on a link that carries nothing else."""
    return link.latency_s + num_bytes / link.bytes_per_s
