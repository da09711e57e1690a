"""Where each worker gets its weights from: pure, from who is here and what the operator said.

Whoever is on another node comes first, one of each node, since what a node has all of its workers
can read for themselves.
"""

from collections.abc import Iterable

from actors.kernel.ref import Ref
from actors.membership import Members
from actors.messages import WeightPolicy
from actors.placement import ServiceSettings, store_bound
from actors.weights import weights_of
from scheduling.plan import StagePlan

MAX_HOLDERS = 16


def weight_policy(stage: StagePlan, members: Members, settings: ServiceSettings) -> WeightPolicy:
    """What a stage's worker is told about its weights."""
    up = members.workers.get(stage.worker)
    return WeightPolicy(
        source=settings.weight_source,
        verify=settings.weight_verify,
        store_bytes=0 if up is None else store_bound(settings, stage.device, up),
        max_bytes_per_s=settings.max_weight_bytes_per_s,
        holders=() if settings.weight_source == "disk" else holders(stage, members),
    )


def holders(stage: StagePlan, members: Members) -> tuple[Ref, ...]:
    """Who may have the weights of a stage, the likeliest first."""
    others = [name for name in members.workers if name != stage.worker]
    rank: dict[str, tuple[bool, int]] = {}
    for name in others:
        node = members.slots[name].node
        earlier = [other for other in rank if members.slots[other].node == node]
        rank[name] = (node == stage.node, len(earlier))
    return _refs(members, sorted(others, key=lambda name: rank[name]))


def _refs(members: Members, names: Iterable[str]) -> tuple[Ref, ...]:
    return tuple(weights_of(members.workers[name].ref) for name in names)[:MAX_HOLDERS]
