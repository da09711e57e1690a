"""How KV travels on each way from a prefill pipeline to a decode pipeline: pure.

The one idea: what the workers measured of their memory and the nodes of their links is all that the
choice needs (`scheduling.kv_transport`). Where `auto` is to choose and something of a way was not
measured, it does not guess: nothing is encoded.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import TypeAlias

from actors.messages import WorkerUp
from actors.placement import ServiceSettings
from models.kv_encoding import KvEncoding
from scheduling.cluster import WITHIN_NODE
from scheduling.kv_transport import KvHop, choose_encoding
from scheduling.plan import PipelinePlan, StagePlan

LinkRates: TypeAlias = Callable[[str, str], float | None]
"""Bytes a second between two nodes, None where that was not measured."""


def hops_between(one: PipelinePlan, other: PipelinePlan) -> Iterator[tuple[StagePlan, StagePlan]]:
    """The stages between which KV goes: those that have layers in common."""
    for a in one.stages:
        for b in other.stages:
            if max(a.start, b.start) < min(a.end, b.end):
                yield a, b


def route_encoding(
    settings: ServiceSettings,
    workers: Mapping[str, WorkerUp],
    link_rate: LinkRates,
    one: PipelinePlan,
    other: PipelinePlan,
) -> KvEncoding:
    """How the KV of hand-offs from one pipeline to another is to travel."""
    setting, layout = settings.kv_transport, settings.kv_layout
    if setting != "auto":
        return setting
    pairs = tuple(hops_between(one, other))
    hops = [hop for a, b in pairs if (hop := _hop(workers, link_rate, a, b)) is not None]
    if layout is None or len(hops) < len(pairs):
        return "none"
    return choose_encoding(setting, layout, hops)


def _hop(
    workers: Mapping[str, WorkerUp], link_rate: LinkRates, a: StagePlan, b: StagePlan
) -> KvHop | None:
    sender, receiver = workers.get(a.worker), workers.get(b.worker)
    rate = WITHIN_NODE.bytes_per_s if a.node == b.node else link_rate(a.node, b.node)
    if sender is None or receiver is None or rate is None:
        return None
    return KvHop(
        link_bytes_per_s=rate,
        sender_bytes_per_s=sender.bytes_per_s,
        receiver_bytes_per_s=receiver.bytes_per_s,
    )
