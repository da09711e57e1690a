"""Which consecutive layers each device of a pipeline gets.

The one idea: a pipeline is as fast as its slowest stage, so that stage's time is made least,
exactly, by dynamic programming over (devices used, layers placed). Among splits of the same slowest
stage the one with the least sum of squared stage times is taken, the most even.

It works on plain numbers and never knows where they were measured. The stage time is the roofline
(Williams, Waterman, Patterson, CACM 2009): a stage is bound by bytes or by arithmetic.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from scheduling.errors import Infeasible

Matrix = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class StageDevice:
    """What a device has for one stage.

    Attributes:
        memory_bytes: what weights and KV cache together may take.
        flops_per_s: arithmetic rate.
        bytes_per_s: rate at which it reads its memory.
        layer_overhead_s: what a layer costs whatever its size, to start all its operations.
        step_overhead_s: what a step costs whatever its layers.
    """

    memory_bytes: int
    flops_per_s: float
    bytes_per_s: float
    layer_overhead_s: float = 0.0
    step_overhead_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCost:
    """What a model's parts weigh, and the load to split it for.

    The head is what the last stage has beyond its layers (final norm, output matrix); the embedding
    is what the first one has. A decode step reads all of the head, but only a row a token of the
    embedding, which therefore counts in memory and not in time.

    Attributes:
        layer_bytes: weights of each layer.
        layer_flops: operations of each layer for one token, without attention.
        embedding_bytes: weights of the embedding.
        head_bytes: weights of the head.
        head_flops: operations of the head for one token.
        tied: whether the head is the embedding, so that a single stage holds it once.
        kv_bytes_per_token: KV cache of one token in one layer.
        num_kv_tokens: tokens that the KV cache must hold at least.
        batch: sequences in the decode step that is to be fast.
        context: tokens that each of them has in the KV cache.
        prefill_ratio: prompt tokens computed for each token generated; they pass the layers, but
            not the head.
    """

    layer_bytes: tuple[int, ...]
    layer_flops: tuple[float, ...]
    embedding_bytes: int
    head_bytes: int
    head_flops: float
    tied: bool = False
    kv_bytes_per_token: int
    num_kv_tokens: int
    batch: int = 8
    context: int = 512
    prefill_ratio: float = 1.0


def split_layers(
    num_layers: int, devices: Sequence[StageDevice], cost: ModelCost
) -> tuple[tuple[int, int], ...]:
    """Give each device, in the order given, a non-empty range of layers.

    The time of a decode step of `B` sequences with a context of `C` tokens on a stage, with its
    share `R` of prefill, is

        max(bytes / bytes_per_s, flops / flops_per_s) + layers * layer_overhead_s
            + R * B * flops of its layers / flops_per_s
        bytes = weights of its layers (and of the head, on the last) + B * C * kv_bytes * layers
        flops = B * (flops of its layers (and of the head, on the last))

    and a stage fits if its layers' weights, the embedding on the first, the head on the last, and
    the KV cache of `num_kv_tokens` are within its memory.

    Returns:
        `(start, end)` of each device.

    Raises:
        Infeasible: nothing fits; the text says what is needed and what there is.

    Complexity: O(D * L^2) for D devices and L layers.
    """
    if len(cost.layer_bytes) != num_layers or len(cost.layer_flops) != num_layers:
        raise ValueError(
            f"layer costs: expected {num_layers}, got {len(cost.layer_bytes)} and "
            f"{len(cost.layer_flops)}"
        )
    if not 1 <= len(devices) <= num_layers:
        raise Infeasible(
            f"{num_layers} layers over {len(devices)} devices: expected a layer or more for each"
        )
    times = [_times(index, devices, cost) for index in range(len(devices))]
    slowest = _last(_chain(times, np.maximum))
    if not np.isfinite(slowest):
        raise Infeasible(_why_not(devices, cost))
    squares = [np.where(time <= slowest, time * time, np.inf) for time in times]
    return _walk_back(squares, _chain(squares, np.add))


def num_kv_blocks(
    ranges: Sequence[tuple[int, int]],
    devices: Sequence[StageDevice],
    cost: ModelCost,
    *,
    block_tokens: int,
    max_useful_tokens: int,
) -> int:
    """KV blocks that every stage of a pipeline can hold, and no more than are of use.

    Args:
        ranges: the layers of each stage.
        devices: their devices.
        cost: the model's.
        block_tokens: tokens in a block.
        max_useful_tokens: tokens that all running sequences together can ever have.

    Raises:
        Infeasible: a stage has no room for a single block.
    """
    blocks = -(-max_useful_tokens // block_tokens)
    for stage, ((start, end), device) in enumerate(zip(ranges, devices, strict=True)):
        weights = sum(cost.layer_bytes[start:end]) + _ends_bytes(start, end, cost)
        room = device.memory_bytes - weights
        block_bytes = (end - start) * cost.kv_bytes_per_token * block_tokens
        if room < block_bytes:
            raise Infeasible(
                f"stage {stage} with layers {start}:{end} needs {_gb(weights + block_bytes)} for "
                f"its weights and one KV block, and its device has {_gb(device.memory_bytes)}"
            )
        blocks = min(blocks, room // max(block_bytes, 1))
    return blocks


def _times(index: int, devices: Sequence[StageDevice], cost: ModelCost) -> Matrix:
    """Time of a device for each range, infinite where it does not fit: [start, end]."""
    device, is_last = devices[index], index == len(devices) - 1
    counts = _ranges([1.0] * len(cost.layer_bytes))
    layers = _ranges(cost.layer_bytes)
    kv_read = counts * (cost.kv_bytes_per_token * cost.batch * cost.context)
    num_bytes = layers + kv_read + cost.head_bytes * is_last
    layer_flops = cost.batch * _ranges(cost.layer_flops)
    flops = layer_flops + cost.batch * cost.head_flops * is_last
    time = np.maximum(num_bytes / device.bytes_per_s, flops / device.flops_per_s)
    time += counts * device.layer_overhead_s
    time += cost.prefill_ratio * layer_flops / device.flops_per_s
    needed = layers + counts * (cost.kv_bytes_per_token * cost.num_kv_tokens)
    needed += _ends_bytes_of(first=index == 0, last=is_last, cost=cost)
    return np.where((counts > 0) & (needed <= device.memory_bytes), time, np.inf)


def _ranges(values: Sequence[float]) -> Matrix:
    """Sum of the values in each range: [start, end]."""
    before = np.concatenate([[0.0], np.cumsum(np.asarray(values, np.float64))])
    sums: Matrix = before[None, :] - before[:, None]
    return sums


def _chain(times: Sequence[Matrix], join: Any) -> list[Matrix]:
    """Least joined time of the first devices over the first layers, for each number of both."""
    best: Matrix = np.full(times[0].shape[0], np.inf)
    best[0] = 0.0
    table = [best]
    for time in times:
        best = join(best[:, None], time).min(axis=0)
        table.append(best)
    return table


def _last(table: Sequence[Matrix]) -> float:
    return float(table[-1][-1])


def _walk_back(costs: Sequence[Matrix], table: Sequence[Matrix]) -> tuple[tuple[int, int], ...]:
    end = costs[0].shape[0] - 1
    ranges: list[tuple[int, int]] = []
    for cost, before in zip(reversed(costs), reversed(table[:-1]), strict=True):
        start = int(np.argmin(before + cost[:, end]))
        ranges.append((start, end))
        end = start
    return tuple(reversed(ranges))


def _ends_bytes(start: int, end: int, cost: ModelCost) -> int:
    return _ends_bytes_of(first=start == 0, last=end == len(cost.layer_bytes), cost=cost)


def _ends_bytes_of(*, first: bool, last: bool, cost: ModelCost) -> int:
    """Weights of the embedding and the head, where a stage has them."""
    if first and last and cost.tied:
        return max(cost.embedding_bytes, cost.head_bytes)
    return cost.embedding_bytes * first + cost.head_bytes * last


def _why_not(devices: Sequence[StageDevice], cost: ModelCost) -> str:
    kv = cost.kv_bytes_per_token * cost.num_kv_tokens * len(cost.layer_bytes)
    ends = [
        _ends_bytes_of(first=i == 0, last=i == len(devices) - 1, cost=cost)
        for i in range(len(devices))
    ]
    needed = sum(cost.layer_bytes) + sum(ends) + kv
    has = ", ".join(_gb(device.memory_bytes) for device in devices)
    largest = max(cost.layer_bytes)
    return (
        f"no split of {len(cost.layer_bytes)} layers fits: weights and KV cache need {_gb(needed)} "
        f"(embedding {_gb(cost.embedding_bytes)}, head {_gb(cost.head_bytes)}, largest layer "
        f"{_gb(largest)}, KV cache of {cost.num_kv_tokens} tokens {_gb(kv)}), "
        f"and the devices have {has}"
    )


def _gb(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.3g} GB"
