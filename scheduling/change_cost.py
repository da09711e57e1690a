"""What a change of plan costs, and whether it is worth that. Pure.

The one idea: a change is worth it if the tokens it gains within a horizon, from when it is done,
are more than those it loses while pipelines pause. Two more conditions keep it from being made for
nothing or over and over: a least part of gain, and a least time since the last one.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from scheduling.plan import PipelinePlan
from scheduling.split import ModelCost

Bandwidth = Callable[[str, str], float]
"""Bytes a second from one node to another."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangeCost:
    """What a change takes.

    Attributes:
        load_bytes: weights that workers do not have yet.
        copy_bytes: KV cache that goes to another worker, if all blocks are in use.
        seconds: until it is done, all of that side by side over workers.
        pause_s: of these, in which nothing is generated.
    """

    load_bytes: int
    copy_bytes: int
    seconds: float
    pause_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class AutoPolicy:
    """When to change by itself.

    Attributes:
        is_on: whether at all.
        horizon_s: seconds over which a gain must outweigh the cost.
        interval_s: least seconds from one change to the next.
        min_gain: least part by which the predicted rate must grow.
    """

    is_on: bool = False
    horizon_s: float = 60.0
    interval_s: float = 30.0
    min_gain: float = 0.1

    def __post_init__(self) -> None:
        for name in ("horizon_s", "interval_s", "min_gain"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"auto: expected {name} of 0 or more, got {getattr(self, name)}")


def cost_of_change(
    old: Sequence[PipelinePlan],
    new: Sequence[PipelinePlan],
    cost: ModelCost,
    *,
    load_bytes_per_s: float,
    bandwidth: Bandwidth,
    start_s: float,
    pause_s: float,
) -> ChangeCost:
    """What it takes to get from one plan to another.

    Args:
        old: what serves.
        new: what is to serve; a worker that is in both keeps its layers' weights and KV.
        cost: what layers weigh.
        load_bytes_per_s: rate at which a worker loads weights while others serve.
        bandwidth: between nodes, for KV.
        start_s: seconds that a worker takes to start.
        pause_s: seconds that a pipeline pauses; only if one that serves changes.
    """
    held = {s.worker: (s.start, s.end) for p in old for s in p.stages}
    kept = {pipeline.id: pipeline for pipeline in old}
    load_bytes, load_s = 0, 0.0
    copy_bytes, copy_s = 0, 0.0
    for pipeline in new:
        for stage in pipeline.stages:
            has = held.get(stage.worker, (0, 0))
            layers = [n for n in range(stage.start, stage.end) if not has[0] <= n < has[1]]
            num_bytes = sum(cost.layer_bytes[n] for n in layers)
            load_bytes += num_bytes
            is_new = stage.worker not in held
            load_s = max(load_s, num_bytes / load_bytes_per_s + start_s * is_new)
        if pipeline.id in kept:
            per_link = _copied(kept[pipeline.id], pipeline, cost)
            copy_bytes += sum(per_link.values())
            slowest = max((n / bandwidth(*ends) for ends, n in per_link.items()), default=0.0)
            copy_s = max(copy_s, slowest)
    is_changed = any(kept[p.id].stages != p.stages for p in new if p.id in kept)
    is_changed = is_changed or any(p.id not in {n.id for n in new} for p in old)
    pause_s = pause_s if is_changed else 0.0
    seconds = load_s + copy_s + pause_s
    return ChangeCost(
        load_bytes=load_bytes, copy_bytes=copy_bytes, seconds=seconds, pause_s=pause_s
    )


def _copied(old: PipelinePlan, new: PipelinePlan, cost: ModelCost) -> Mapping[tuple[str, str], int]:
    """Bytes of KV that go from node to node."""
    block_bytes = old.num_blocks * old.block_tokens * cost.kv_bytes_per_token
    owners = {n: stage for stage in old.stages for n in range(stage.start, stage.end)}
    found: dict[tuple[str, str], int] = {}
    for stage in new.stages:
        for layer in range(stage.start, stage.end):
            owner = owners[layer]
            if owner.worker != stage.worker:
                ends = (str(owner.node), str(stage.node))
                found[ends] = found.get(ends, 0) + block_bytes
    return found


def why_not_worth(
    policy: AutoPolicy, current_tokens_per_s: float, proposed_tokens_per_s: float, cost: ChangeCost
) -> str:
    """Why a change is not worth its cost, in words; empty if it is."""
    gain = proposed_tokens_per_s - current_tokens_per_s
    if gain <= 0:
        return "nothing better was found"
    part = gain / current_tokens_per_s if current_tokens_per_s > 0 else float("inf")
    if part < policy.min_gain:
        return f"a gain of {part:.1%} is below the least of {policy.min_gain:.1%}"
    gained = gain * max(0.0, policy.horizon_s - cost.seconds)
    lost = current_tokens_per_s * cost.pause_s
    if gained <= lost:
        return (
            f"over {policy.horizon_s:g} s it would gain {gained:.0f} tokens and lose {lost:.0f}, "
            f"since the change takes {cost.seconds:.1f} s"
        )
    return ""
