"""A placement with overlapping layer ranges as it is told: nodes, links, and routes of requests.

The one idea: it is a statement beside a plan and never a plan: what is served are pipelines that
cover all layers once, and this says how much more a service could do that lets a request enter a
node in the middle of its layers. The routes are those that interleaved weighted round robin deals
to the first requests (`weighted_round_robin`), each with the layers that every node computes.

Source: Helix, ASPLOS 2025.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from scheduling.errors import InvalidPlan
from scheduling.helix.flow import Flow, Ranges
from scheduling.placement import Group
from scheduling.weighted_round_robin import Hop, RouteScheduler

OVERLAPPING = "overlapping"
"""The key of a plan file under which it stands; who serves or simulates a plan leaves it unread."""
_NUM_ROUTES = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Overlapping:
    """Ranges of layers on groups, and the flow that they carry.

    Attributes:
        groups: the nodes of the flow.
        ranges: layers that each holds; an empty range is a group left idle.
        flow: in generated tokens/s.
        bound: tokens/s; no placement with overlapping ranges on these groups carries more.
        kv_tokens: tokens whose KV each group has room for, in all its layers.
    """

    groups: tuple[Group, ...]
    ranges: Ranges
    flow: Flow
    bound: float
    kv_tokens: tuple[int, ...]

    @property
    def tokens_per_s(self) -> float:
        """What it carries."""
        return self.flow.tokens_per_s

    def loss(self, tokens_per_s: float) -> float:
        """The part of the flow that pipelines which do so much give up; below 0 if they do more."""
        return 1 - tokens_per_s / self.tokens_per_s if self.tokens_per_s else 0.0

    def routes(self, num_tokens: int, count: int = _NUM_ROUTES) -> tuple[tuple[Hop, ...], ...]:
        """The routes of the first requests, while all of them are being served.

        Args:
            num_tokens: prompt and answer of a request, whose KV it needs on every hop.
            count: requests; fewer routes where the KV caches are full.
        """
        scheduler = RouteScheduler(self.flow, self.ranges, kv_tokens=self.kv_tokens)
        found = []
        for number in range(count):
            try:
                route = scheduler.next_route(str(number), num_tokens=num_tokens)
            except InvalidPlan:  # no empty route holds a request of this length
                break
            if route is None:
                break
            found.append(route)
        return tuple(found)


def lines_of(over: Overlapping, tokens_per_s: float, num_tokens: int) -> Iterator[str]:
    """The placement for people: what it carries, what pipelines lose, ranges, routes."""
    loss = over.loss(tokens_per_s)
    yield (
        f"overlapping ranges (not served): a flow of {over.tokens_per_s:,.1f} tokens/s, at most "
        f"{over.bound:,.1f}; the pipelines do {tokens_per_s:,.1f}, "
        f"{abs(loss):.1%} {'less' if loss >= 0 else 'more'}"
    )
    for group, (start, end), room in zip(over.groups, over.ranges, over.kv_tokens, strict=True):
        devices = ",".join(map(str, group.devices))
        held = f"layers {start:>3}:{end:<3} KV of {room} tokens" if end > start else "idle"
        yield f"  {group.node}:{devices:<12} {held}"
    for number, route in enumerate(over.routes(num_tokens)):
        yield f"  request {number}: {' > '.join(_hop(over.groups, hop) for hop in route)}"


def document_of(over: Overlapping, tokens_per_s: float, num_tokens: int) -> dict[str, Any]:
    """The placement for programs: what stands in a plan file under `OVERLAPPING`."""
    return {
        "tokens_per_s": over.tokens_per_s,
        "bound": over.bound,
        "pipelines_tokens_per_s": tokens_per_s,
        "loss": over.loss(tokens_per_s),
        "nodes": [
            {**_named(group), "start": start, "end": end, "kv_tokens": room}
            for group, (start, end), room in zip(
                over.groups, over.ranges, over.kv_tokens, strict=True
            )
        ],
        "links": [
            {"from": tail, "to": head, "tokens_per_s": rate}
            for (tail, head), rate in over.flow.links.items()
        ],
        "routes": [
            [{"node": hop.node, "start": hop.start, "end": hop.end} for hop in route]
            for route in over.routes(num_tokens)
        ],
    }


def _named(group: Group) -> dict[str, Any]:
    return {"node": group.node, "devices": list(group.devices)}


def _hop(groups: Sequence[Group], hop: Hop) -> str:
    group = groups[hop.node]
    return f"{group.node}:{','.join(map(str, group.devices))} {hop.start}:{hop.end}"
