"""What an operator's wish means: the plan it asks for, and what that would move. Pure.

The one idea: whoever holds most of a stage's layers already gets that stage, so that as little as
can be has to move (SpotServe, ASPLOS 2024: matching what is resident). Workers that are missing are
named, to be started. A wish that cannot be is refused; whether it fits is for `fitting` to say.
"""

import json
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import networkx as nx

from actors.fitting import check_fits, fitted
from actors.membership import Members
from actors.messages import ChangePlan
from actors.placement import ServiceSettings, WorkerSlot, plan_pipelines
from scheduling.errors import InvalidPlan
from scheduling.plan import (
    NodeId,
    PipelinePlan,
    StagePlan,
    WorkerId,
    check_pipeline,
    parse_layers,
    pipeline_from_dict,
)
from scheduling.split import ModelCost

Range = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Target:
    """A plan to go to, and the workers it needs that do not live yet."""

    plan: PipelinePlan
    new_slots: tuple[WorkerSlot, ...]


def target_of(
    wish: ChangePlan,
    plan: PipelinePlan,
    members: Members,
    spares: Sequence[str],
    settings: ServiceSettings,
) -> Target:
    """The plan that a wish asks for.

    Args:
        wish: what the operator said.
        plan: what serves.
        members: who is here.
        spares: workers that nothing uses.
        settings: the model's cost, and how memory is shared.

    Raises:
        InvalidPlan: it contradicts itself, names what is not there, or does not fit.
        Infeasible: the model does not fit so many stages.
    """
    num_layers = len(settings.cost.layer_bytes)
    if wish.plan:
        wanted = pipeline_from_dict(read_json(wish.plan))
        _check_free(wanted, {*spares, *(stage.worker for stage in plan.stages)}, members)
        target = _by_plan(wanted, plan, members, num_layers)
    elif wish.layers:
        target = _by_ranges(parse_layers(wish.layers, num_layers), plan, members, spares)
    else:
        target = _by_number(wish.num_stages, plan, members, spares, settings)
    if not wish.plan:
        return replace(target, plan=fitted(target.plan, plan, members, settings))
    check_fits(target.plan, plan, members, settings)
    return target


# --- which workers


def _by_plan(wanted: PipelinePlan, plan: PipelinePlan, members: Members, num_layers: int) -> Target:
    if (wanted.id, wanted.block_tokens) != (plan.id, plan.block_tokens):
        raise InvalidPlan(
            f"plan: expected pipeline {plan.id!r} with blocks of {plan.block_tokens} tokens, got "
            f"{wanted.id!r} with {wanted.block_tokens}"
        )
    return _on_named_workers(wanted, members, num_layers)


def new_pipeline(
    wanted: PipelinePlan, members: Members, used: Container[str], settings: ServiceSettings
) -> Target:
    """A pipeline that is to be added, on workers that nothing uses.

    Raises:
        InvalidPlan: it contradicts itself, or one of its workers is used or cannot be started.
    """
    _check_free(wanted, {name for name in members.workers if name not in used}, members)
    if wanted.num_blocks * wanted.block_tokens < settings.max_model_len:
        raise InvalidPlan(
            f"pipeline {wanted.id!r}: {wanted.num_blocks} KV blocks of {wanted.block_tokens} "
            f"tokens are less than a request may need ({settings.max_model_len} tokens)"
        )
    return _on_named_workers(wanted, members, len(settings.cost.layer_bytes))


def _check_free(wanted: PipelinePlan, free: Container[str], members: Members) -> None:
    """Refuse a plan that takes a worker from another pipeline."""
    for stage in wanted.stages:
        if stage.worker in members.workers and stage.worker not in free:
            raise InvalidPlan(
                f"pipeline {wanted.id!r}: worker {stage.worker!r} serves another already"
            )


def _on_named_workers(wanted: PipelinePlan, members: Members, num_layers: int) -> Target:
    check_pipeline(wanted, num_layers)
    names = [stage.worker for stage in wanted.stages]
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InvalidPlan(f"pipeline {wanted.id!r}: worker {twice!r} is to host two stages")
    new = tuple(_slot_of(stage, members) for stage in wanted.stages if _is_new(stage, members))
    return Target(wanted, new)


def read_json(packed: bytes) -> Any:
    """A plan as it came; raises `InvalidPlan` where it is no JSON."""
    try:
        return json.loads(packed)
    except ValueError as error:
        raise InvalidPlan(f"plan: expected JSON: {error}") from None


def _is_new(stage: StagePlan, members: Members) -> bool:
    slot = members.slots.get(stage.worker)
    if slot is not None and (slot.node, slot.device) != (stage.node, stage.device):
        where = f"{slot.device} of node {slot.node}"
        raise InvalidPlan(f"plan: worker {stage.worker!r} lives on {where}; give another name")
    return members.usable(stage.worker) is None


def _slot_of(stage: StagePlan, members: Members) -> WorkerSlot:
    """A worker to start for a stage, where the plan puts it."""
    node = members.nodes.get(stage.node)
    if node is None or stage.node in members.leaving:
        known = ", ".join(name for name in members.nodes if name not in members.leaving)
        raise InvalidPlan(f"plan: stage {stage.stage} is on node {stage.node!r}; here are: {known}")
    if stage.device not in node.devices:
        known = ", ".join(node.devices)
        raise InvalidPlan(
            f"plan: node {stage.node} has no device {stage.device!r}; it has: {known}"
        )
    alike = [s for s in members.slots.values() if (s.node, s.device) == (stage.node, stage.device)]
    return WorkerSlot(
        worker=stage.worker,
        pipeline="",
        stage=stage.stage,
        node=stage.node,
        device=stage.device,
        num_threads=alike[0].num_threads if alike else max(1, node.num_cores),
        layers=None,
    )


def _by_number(
    num_stages: int,
    plan: PipelinePlan,
    members: Members,
    spares: Sequence[str],
    settings: ServiceSettings,
) -> Target:
    """Layers split by what the workers measured; those to be started count as those beside them."""
    num_layers = len(settings.cost.layer_bytes)
    if not 1 <= num_stages <= num_layers:
        raise InvalidPlan(f"stages: expected 1 to {num_layers}, got {num_stages}")
    even = [
        (i * num_layers // num_stages, (i + 1) * num_layers // num_stages)
        for i in range(num_stages)
    ]
    target = _by_ranges(even, plan, members, spares)
    slots = [_like(stage, target, members, str(plan.id)) for stage in target.plan.stages]
    known = {slot.worker: _measured(slot, members) for slot in slots}
    (split,) = plan_pipelines(settings, slots, known)
    return _by_ranges([(s.start, s.end) for s in split.stages], plan, members, spares)


def _like(stage: StagePlan, target: Target, members: Members, pipeline: str) -> WorkerSlot:
    new = {slot.worker: slot for slot in target.new_slots}
    slot = new.get(stage.worker) or members.slots[stage.worker]
    return replace(slot, pipeline=pipeline, stage=stage.stage, layers=None)


def _measured(slot: WorkerSlot, members: Members) -> Any:
    """What a worker measured, or for one to be started, what one on the same device did."""
    up = members.workers.get(slot.worker)
    if up is not None:
        return up
    for name, other in members.workers.items():
        theirs = members.slots[name]
        if (theirs.node, theirs.device) == (slot.node, slot.device):
            return other
    raise InvalidPlan(f"nothing is known of {slot.device} of node {slot.node}: nothing runs there")


def _by_ranges(
    ranges: Sequence[Range], plan: PipelinePlan, members: Members, spares: Sequence[str]
) -> Target:
    """Workers for some ranges: those that hold most of each, then spares, then new ones."""
    holders: dict[str, Range] = {s.worker: (s.start, s.end) for s in plan.stages}
    usable: list[str] = [name for name in holders if members.usable(name) is not None]
    matched = match(ranges, {name: holders[name] for name in usable})
    free = [name for name in usable if name not in matched.values()]
    free += [name for name in spares if members.usable(name) is not None]
    new: list[WorkerSlot] = []
    stages = []
    for number, (start, end) in enumerate(ranges):
        name = matched.get(number) or (free.pop(0) if free else None)
        if name is None:
            new.append(_another(plan, members, [slot.worker for slot in new]))
            slot = new[-1]
        else:
            slot = members.slots[name]
        stages.append(
            StagePlan(
                stage=number,
                node=NodeId(slot.node),
                worker=WorkerId(slot.worker),
                device=slot.device,
                start=start,
                end=end,
            )
        )
    return Target(replace(plan, stages=tuple(stages)), tuple(new))


def match(ranges: Sequence[Range], holders: Mapping[str, Range]) -> dict[int, str]:
    """Which holder gets which range, so that they hold as many layers already as can be."""
    graph = nx.Graph()
    for number, (start, end) in enumerate(ranges):
        for name, (from_, to) in holders.items():
            shared = min(end, to) - max(start, from_)
            if shared > 0:
                graph.add_edge(number, name, weight=shared)
    pairs = nx.max_weight_matching(graph)
    return {n: m for a, b in pairs for n, m in ((a, b), (b, a)) if isinstance(n, int)}


def _another(plan: PipelinePlan, members: Members, taken: Sequence[str]) -> WorkerSlot:
    """A worker to be started on the device of the pipeline that has the fewest."""
    places = [(s.node, s.device) for s in plan.stages if s.node in members.nodes]
    places = [place for place in places if place[0] not in members.leaving]
    if not places:
        raise InvalidPlan("no node of the pipeline is left to start a worker on")
    node, device = min(places, key=places.count)
    names = (f"{node}/extra-{number}" for number in range(len(members.slots) + len(taken) + 1))
    name = next(n for n in names if n not in members.slots and n not in taken)
    alike = [s for s in members.slots.values() if (s.node, s.device) == (node, device)]
    return replace(alike[0], worker=name, pipeline="", layers=None)


# --- what it moves


def describe_moves(old: PipelinePlan, new: PipelinePlan, cost: ModelCost) -> tuple[str, ...]:
    """What goes where, a sentence for each run of layers."""
    owners = {layer: s for s in old.stages for layer in range(s.start, s.end)}
    moves: list[tuple[int, int, str, str]] = []
    for stage in new.stages:
        for layer in range(stage.start, stage.end):
            source = owners[layer].worker
            if source == stage.worker:
                continue
            if moves and moves[-1][1:] == (layer, source, stage.worker):
                moves[-1] = (moves[-1][0], layer + 1, source, stage.worker)
            else:
                moves.append((layer, layer + 1, source, stage.worker))
    return tuple(
        f"layers {start}:{end} ({sum(cost.layer_bytes[start:end]) / 1e6:.1f} MB weights, up to "
        f"{(end - start) * _kv_layer_bytes(new, cost) / 1e6:.1f} MB KV) from {source} to {target}"
        for start, end, source, target in moves
    )


def _kv_layer_bytes(plan: PipelinePlan, cost: ModelCost) -> int:
    """KV cache of one layer."""
    return plan.num_blocks * plan.block_tokens * cost.kv_bytes_per_token
