"""A decoder in numbers: what its parts weigh and compute, and what a step asks of them.

It never knows a device, and so no time.
"""

from dataclasses import dataclass


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
