"""How long a stage's step and a transfer take, from what a device and a link can do.

The one idea: work is bound by arithmetic or by the bytes it reads, whichever takes longer (the
roofline of Williams, Waterman, Patterson, CACM 2009). A step has three kinds of work, one after
another, each with its own bound: the layers' matrices, attention over the KV cache, the head.

It works on plain numbers and never knows a clock, a tensor, or whether anybody measured them.
"""

from scheduling.link_rate import LinkRate, all_reduce_time_s, transfer_time_s
from scheduling.model_shape import ModelShape, StepWork
from scheduling.split import ModelCost, StageDevice

__all__ = [
    "LinkRate",
    "ModelShape",
    "StageTime",
    "StepWork",
    "all_reduce_time_s",
    "model_cost",
    "tensor_parallel",
    "transfer_time_s",
]


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

    and `layer_overhead_s` for starting it; besides, `step_overhead_s` for the whole step, however
    few the layers. Where nothing is drawn, the head is not read.
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
        "_step_overhead_s",
    )

    def __init__(self, device: StageDevice, shape: ModelShape, layers: tuple[int, int]) -> None:
        """Of a device that has the layers `[start, end)` of a model."""
        self._shape = shape
        self._bytes_per_s, self._flops_per_s = device.bytes_per_s, device.flops_per_s
        self._overhead_s = device.layer_overhead_s
        self._step_overhead_s = device.step_overhead_s
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
        seconds = self._step_overhead_s + self._num_layers * self.of_layer(work)
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


def tensor_parallel(device: StageDevice, degree: int) -> StageDevice:
    """Some equal devices that share every layer, as one device; without what they tell each other.

    Each of them still starts all operations, so that the overhead stays.
    """
    return StageDevice(
        memory_bytes=device.memory_bytes * degree,
        flops_per_s=device.flops_per_s * degree,
        bytes_per_s=device.bytes_per_s * degree,
        layer_overhead_s=device.layer_overhead_s,
        step_overhead_s=device.step_overhead_s,
    )
