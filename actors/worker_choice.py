"""Which worker hosts which stage of a layout, and which pipeline it is: pure.

The one idea: whoever has most of a stage's layers already gets it, pipelines first and workers
next, so that little moves. A worker of another pipeline is never taken: where no spare is on the
device, one is to be started there.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from actors.fitting import fitted
from actors.membership import Members
from actors.placement import ServiceSettings, memory_share
from scheduling.errors import InvalidPlan
from scheduling.live import Chain, Layout, Placed
from scheduling.placement import Phase
from scheduling.plan import NodeId, PipelineId, PipelinePlan, StagePlan, WorkerId
from scheduling.split import StageDevice, num_kv_blocks

_MORE = 1.25
"""KV blocks are made more only by this factor: as long as their number stays, KV is shared."""


def with_workers(
    layout: Layout,
    present: Sequence[PipelinePlan],
    members: Members,
    settings: ServiceSettings,
    memory: Mapping[tuple[str, str], int],
    phases: Sequence[Phase] | None = None,
) -> tuple[PipelinePlan, ...]:
    """The plan of a layout: pipelines by name, with workers and KV blocks.

    Args:
        layout: what is to run where.
        present: what serves.
        members: who is here.
        settings: how memory is shared, and what the model weighs.
        memory: bytes of each device, by node and device.
        phases: what each chain of the layout is to serve; if not given, those that are here serve
            what they do, and new ones both.

    Raises:
        InvalidPlan: a stage's device is not here, or has no room beside what serves.
        Infeasible: a stage has no room for a KV block.
    """
    for stage in (stage for chain in layout for stage in chain):
        _check_place(stage, members)
    used: set[str] = {s.worker for p in present for s in p.stages}
    taken: set[str] = set()
    plans: list[PipelinePlan] = []
    for at, old in _pipelines(layout, present):
        chain = layout[at]
        mine: dict[str, tuple[int, int]] = {}
        if old is not None:
            mine = {s.worker: (s.start, s.end) for s in old.stages}
        stages = _hosted(chain, mine, used, taken, members)
        name = old.id if old is not None else _new_id([*present, *plans])
        plan = PipelinePlan(
            id=name,
            stages=stages,
            num_blocks=1,
            block_tokens=settings.block_tokens,
            phase=phases[at] if phases is not None else "both" if old is None else old.phase,
        )
        blocks = _num_blocks(chain, layout, settings, memory)
        if old is None:
            plans.append(replace(plan, num_blocks=blocks))
            continue
        if old.num_blocks <= blocks < old.num_blocks * _MORE:
            blocks = old.num_blocks
        plans.append(fitted(replace(plan, num_blocks=blocks), old, members, settings))
    return tuple(plans)


def _check_place(stage: Placed, members: Members) -> None:
    where = f"plan: layers {stage.start}:{stage.end}"
    node = members.nodes.get(stage.node)
    if node is None or stage.node in members.leaving:
        known = ", ".join(name for name in members.nodes if name not in members.leaving)
        raise InvalidPlan(f"{where} are to be on node {stage.node!r}; here are: {known}")
    if stage.device not in node.devices:
        known = ", ".join(node.devices)
        raise InvalidPlan(
            f"{where}: node {stage.node} has no device {stage.device!r}; it has: {known}"
        )


def _pipelines(
    layout: Layout, present: Sequence[PipelinePlan]
) -> list[tuple[int, PipelinePlan | None]]:
    """Which pipeline each chain is: those that share most layers on a device first."""
    pairs = sorted(
        (-_shared(chain, plan), at, number)
        for at, chain in enumerate(layout)
        for number, plan in enumerate(present)
    )
    found: dict[int, int] = {}
    for _, at, number in pairs:
        if at not in found and number not in found.values():
            found[at] = number
    # those that serve come first: what is added may need what they leave
    order = sorted(range(len(layout)), key=lambda at: (at not in found, found.get(at, at)))
    return [(at, present[found[at]] if at in found else None) for at in order]


def _shared(chain: Chain, plan: PipelinePlan) -> int:
    return sum(
        _overlap((a.start, a.end), (b.start, b.end))
        for a in chain
        for b in plan.stages
        if (a.node, a.device) == (b.node, b.device)
    )


def _overlap(one: tuple[int, int], other: tuple[int, int]) -> int:
    return max(0, min(one[1], other[1]) - max(one[0], other[0]))


def _hosted(
    chain: Chain,
    mine: Mapping[str, tuple[int, int]],
    used: set[str],
    taken: set[str],
    members: Members,
) -> tuple[StagePlan, ...]:
    """A worker for each stage; those with most to keep choose first."""
    chosen: dict[int, str] = {}

    def best(at: int) -> tuple[int, int, str]:
        options = (
            (-_overlap(mine.get(name, (0, 0)), (chain[at].start, chain[at].end)), rank, name)
            for rank, name in _candidates(chain[at], mine, used, taken, members)
        )
        return min(options)

    while len(chosen) < len(chain):
        (_, _, name), at = min((best(at), at) for at in range(len(chain)) if at not in chosen)
        chosen[at] = name
        taken.add(name)
    return tuple(
        StagePlan(
            stage=at,
            node=NodeId(stage.node),
            worker=WorkerId(chosen[at]),
            device=stage.device,
            start=stage.start,
            end=stage.end,
        )
        for at, stage in enumerate(chain)
    )


def _candidates(
    stage: Placed,
    mine: Mapping[str, tuple[int, int]],
    used: set[str],
    taken: set[str],
    members: Members,
) -> Iterable[tuple[int, str]]:
    """Workers on a stage's device, best first: the pipeline's, spares, those that may start."""
    for name, slot in members.slots.items():
        if (slot.node, slot.device) != (stage.node, stage.device) or name in taken:
            continue
        if name in used and name not in mine:
            continue
        if members.usable(name) is not None:
            yield (0 if name in mine else 1), name
        elif members.may_start(name):
            yield 2, name
    number = 0
    while (name := f"{stage.node}/extra-{number}") in members.slots or name in taken:
        number += 1
    yield 3, name


def _new_id(plans: Iterable[PipelinePlan]) -> PipelineId:
    names = {str(plan.id) for plan in plans}
    number = 0
    while str(number) in names:
        number += 1
    return PipelineId(str(number))


def _num_blocks(
    chain: Chain,
    layout: Layout,
    settings: ServiceSettings,
    memory: Mapping[tuple[str, str], int],
) -> int:
    everywhere = [(s.node, s.device) for c in layout for s in c]
    devices = [_device(s, everywhere.count((s.node, s.device)), settings, memory) for s in chain]
    blocks = num_kv_blocks(
        [(s.start, s.end) for s in chain],
        devices,
        settings.cost,
        block_tokens=settings.block_tokens,
        max_useful_tokens=settings.max_running * settings.max_model_len,
    )
    return min(blocks, settings.num_blocks or blocks)


def _device(
    stage: Placed,
    num_sharing: int,
    settings: ServiceSettings,
    memory: Mapping[tuple[str, str], int],
) -> StageDevice:
    found = memory.get((stage.node, stage.device))
    if found is None:
        raise InvalidPlan(
            f"plan: nothing is known of {stage.device} of node {stage.node}: no worker measured it "
            f"yet; keep a spare there (cluster.spares) or wait for it"
        )
    share = memory_share(settings, found, stage.device, num_sharing)
    return StageDevice(memory_bytes=share, flops_per_s=1.0, bytes_per_s=1.0)
