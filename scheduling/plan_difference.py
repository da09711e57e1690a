"""What has to be done to go from one plan to another, as a value. Pure.

The law: `apply(difference(a, b), a) == b`. Pipelines are told apart by their ids; one that is in
both plans and differs is changed as a whole, since its stages cover the layers together.
"""

from dataclasses import dataclass

from scheduling.errors import InvalidPlan
from scheduling.plan import PipelineId, PipelinePlan, Plan


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """The way from one plan to another.

    Attributes:
        epoch: that of the other plan.
        added: pipelines that only the other has.
        changed: pipelines of both that differ, as the other has them.
        removed: pipelines that only the first has, in its order.
        order: all pipelines of the other, in its order.
    """

    epoch: int
    model: str
    added: tuple[PipelinePlan, ...]
    changed: tuple[PipelinePlan, ...]
    removed: tuple[PipelineId, ...]
    order: tuple[PipelineId, ...]

    @property
    def is_empty(self) -> bool:
        """Whether nothing runs otherwise afterwards."""
        return not (self.added or self.changed or self.removed)


def difference(old: Plan, new: Plan) -> Difference:
    """What leads from the one to the other.

    Raises:
        InvalidPlan: they are of different models.
    """
    if old.model != new.model:
        raise InvalidPlan(f"model: expected {old.model!r} in both plans, got {new.model!r}")
    before = {pipeline.id: pipeline for pipeline in old.pipelines}
    order = tuple(pipeline.id for pipeline in new.pipelines)
    return Difference(
        epoch=new.epoch,
        model=new.model,
        added=tuple(p for p in new.pipelines if p.id not in before),
        changed=tuple(p for p in new.pipelines if p.id in before and before[p.id] != p),
        removed=tuple(name for name in before if name not in order),
        order=order,
    )


def apply(change: Difference, plan: Plan) -> Plan:
    """The plan that a difference leads to.

    Raises:
        InvalidPlan: it was not taken from a plan like this one; says what is missing or in the way.
    """
    if plan.model != change.model:
        raise InvalidPlan(f"model: expected {change.model!r}, got {plan.model!r}")
    found = {pipeline.id: pipeline for pipeline in plan.pipelines}
    for pipeline in change.added:
        if pipeline.id in found:
            raise InvalidPlan(f"pipeline {pipeline.id!r}: expected none to be there already")
    for name in (*change.removed, *(pipeline.id for pipeline in change.changed)):
        if name not in found:
            raise InvalidPlan(f"pipeline {name!r}: expected it in the plan, got {sorted(found)}")
    for name in change.removed:
        del found[name]
    found |= {pipeline.id: pipeline for pipeline in (*change.added, *change.changed)}
    if {*found} != {*change.order}:
        raise InvalidPlan(f"pipelines: expected {sorted(change.order)}, got {sorted(found)}")
    pipelines = tuple(found[name] for name in change.order)
    return Plan(epoch=change.epoch, model=change.model, pipelines=pipelines)
