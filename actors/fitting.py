"""Whether a plan fits the workers' memory while a pipeline goes over to it. Pure.

The one idea: a worker needs the old and the new beside each other, each layer once, and KV of a
layer that it keeps once only if the number of blocks stays. What does not fit is refused with the
numbers.
"""

from dataclasses import dataclass, replace

from actors.membership import Members
from actors.placement import ServiceSettings, memory_share
from scheduling.errors import InvalidPlan
from scheduling.plan import PipelinePlan, StagePlan
from scheduling.split import ModelCost


def fitted(
    wanted: PipelinePlan, plan: PipelinePlan, members: Members, settings: ServiceSettings
) -> PipelinePlan:
    """A plan with as many KV blocks as it wants or serves with, or as many as fit while it changes.

    Raises:
        InvalidPlan: not even one longest request's fit; says where, with the numbers.
    """
    rooms = _rooms(wanted, plan, members, settings)
    for blocks in (wanted.num_blocks, plan.num_blocks):
        if all(r.fits(blocks) for r in rooms):
            return replace(wanted, num_blocks=blocks)
    fewer = min(r.most_blocks() for r in rooms)
    if fewer * plan.block_tokens < settings.max_model_len:
        for r in rooms:
            r.check(-(-settings.max_model_len // plan.block_tokens))
    return replace(wanted, num_blocks=fewer)


def check_fits(
    wanted: PipelinePlan, plan: PipelinePlan, members: Members, settings: ServiceSettings
) -> None:
    """Raise `InvalidPlan` with the numbers where a plan does not fit as it is."""
    for room in _rooms(wanted, plan, members, settings):
        room.check(wanted.num_blocks)


def _rooms(
    wanted: PipelinePlan, plan: PipelinePlan, members: Members, settings: ServiceSettings
) -> tuple["_Room", ...]:
    return tuple(
        _room(stage, plan, members, settings)
        for stage in wanted.stages
        if stage.worker in members.workers
    )


@dataclass(frozen=True, slots=True)
class _Room:
    """What a worker may take, and what it needs while it changes: the old and the new beside it.

    KV of a layer that it keeps is shared only while the number of blocks stays.
    """

    where: str
    share_bytes: int
    weight_bytes: int
    num_old: int
    num_new: int
    num_both: int
    old_blocks: int
    block_bytes: int

    def needed_bytes(self, num_blocks: int) -> int:
        """Weights and KV of both epochs."""
        if num_blocks == self.old_blocks:
            num_entries = (self.num_old + self.num_new - self.num_both) * num_blocks
        else:
            num_entries = self.num_old * self.old_blocks + self.num_new * num_blocks
        return self.weight_bytes + num_entries * self.block_bytes

    def fits(self, num_blocks: int) -> bool:
        """Whether so many blocks do."""
        return self.needed_bytes(num_blocks) <= self.share_bytes

    def most_blocks(self) -> int:
        """How many do, if it is not the old number."""
        left = self.share_bytes - self.needed_bytes(0)
        return max(0, left // (self.num_new * self.block_bytes))

    def check(self, num_blocks: int) -> None:
        """Raise `InvalidPlan` with the numbers if so many do not."""
        if not self.fits(num_blocks):
            raise InvalidPlan(
                f"{self.where}: old and new layers together need "
                f"{self.needed_bytes(num_blocks) / 1e6:.1f} MB with {num_blocks} KV blocks, and it "
                f"may take {self.share_bytes / 1e6:.1f} MB"
            )


def _room(
    stage: StagePlan, plan: PipelinePlan, members: Members, settings: ServiceSettings
) -> _Room:
    place = (stage.node, stage.device)
    sharing = [s for s in members.slots.values() if (s.node, s.device) == place]
    memory_bytes = members.workers[stage.worker].memory_bytes
    old = {n for s in plan.stages if s.worker == stage.worker for n in range(s.start, s.end)}
    new = set(range(stage.start, stage.end))
    return _Room(
        where=f"stage {stage.stage} on {stage.worker}",
        share_bytes=memory_share(settings, memory_bytes, stage.device, len(sharing)),
        weight_bytes=_weight_bytes(old | new, settings.cost),
        num_old=len(old),
        num_new=len(new),
        num_both=len(old & new),
        old_blocks=plan.num_blocks,
        block_bytes=plan.block_tokens * settings.cost.kv_bytes_per_token,
    )


def _weight_bytes(layers: set[int], cost: ModelCost) -> int:
    """Weights of some layers, with the embedding before the first and the head behind the last."""
    ends = (cost.embedding_bytes if 0 in layers else 0) + (
        cost.head_bytes if len(cost.layer_bytes) - 1 in layers else 0
    )
    return sum(cost.layer_bytes[layer] for layer in layers) + ends
