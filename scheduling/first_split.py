"""Which layers each device of a pipeline gets, by the forecasts that plans are judged by.

The one idea: a service begins with the split that its planner would give these devices in this
order, so that there is nothing to be re-planned while nothing has changed. Where forecasts do not
know the devices to hold the model, because a layer is larger than the mean or a step's workspace
does not fit beside, the split by memory and one step (`scheduling.split`) has the last word, and
says with its numbers why there is none.
"""

from collections.abc import Sequence
from itertools import pairwise

from scheduling.errors import Infeasible
from scheduling.forecast import Forecaster, Row
from scheduling.goal import Goal, Limits
from scheduling.hardware import DeviceKind
from scheduling.model_shape import ModelShape
from scheduling.roofline import LinkRate
from scheduling.split import ModelCost, StageDevice, num_kv_blocks, split_layers
from scheduling.stage_cost import CostTable, GroupKind
from scheduling.workload import Workload

Ranges = tuple[tuple[int, int], ...]


def first_split(
    devices: Sequence[StageDevice],
    hops: Sequence[LinkRate],
    cost: ModelCost,
    shape: ModelShape | None,
    workload: Workload,
    limits: Limits,
) -> Ranges:
    """The layers of each device, in the order given.

    Args:
        devices: what each has for one stage; memory is counted as it is.
        hops: the links between them, one fewer.
        cost: what the model's parts weigh, layer by layer.
        shape: the model's; without it nothing can be forecast.
        workload: the requests to split for.
        limits: how they are batched.

    Raises:
        Infeasible: the devices cannot hold the model; the text says what is needed.
    """
    num_layers = len(cost.layer_bytes)
    if shape is not None:
        ranges = _forecast_split(devices, hops, shape, workload, limits)
        if ranges is not None and _holds(ranges, devices, cost, limits):
            return ranges
    return split_layers(num_layers, devices, cost)


def _forecast_split(
    devices: Sequence[StageDevice],
    hops: Sequence[LinkRate],
    shape: ModelShape,
    workload: Workload,
    limits: Limits,
) -> Ranges | None:
    kinds = {
        str(number): DeviceKind.measured(str(number), device)
        for number, device in enumerate(devices)
    }
    table = CostTable(shape, workload, limits, kinds.__getitem__)
    nothing = LinkRate(bytes_per_s=1.0, latency_s=0.0)  # within a group of one device
    row = Row(tuple(GroupKind(name, 1, nothing) for name in kinds), tuple(hops))
    found = Forecaster(table, Goal()).forecast(row)
    if found is None:
        return None
    ends = [sum(found.layers[:count]) for count in range(len(found.layers) + 1)]
    return tuple(pairwise(ends))


def _holds(ranges: Ranges, devices: Sequence[StageDevice], cost: ModelCost, limits: Limits) -> bool:
    """Whether the KV of one longest request fits beside the weights of every stage."""
    try:
        num_blocks = num_kv_blocks(
            ranges,
            devices,
            cost,
            block_tokens=limits.block_tokens,
            max_useful_tokens=max(cost.num_kv_tokens, limits.block_tokens),
        )
    except Infeasible:
        return False
    return num_blocks * limits.block_tokens >= cost.num_kv_tokens
