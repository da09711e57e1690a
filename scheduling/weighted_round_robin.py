"""Routes for requests over a flow: each link is taken as often as its share of the flow.

The one idea: interleaved weighted round robin at every node. A node owes each of its successors a
turn in proportion to the flow on the link, the one that is owed most goes next, and a successor
without KV room for the request is passed over without losing what it is owed. A route that meets a
dead end is tried again around it; if none is left the request waits, and nothing has changed.

A route also says which layers each node computes, for ranges may overlap.

Source: Helix, ASPLOS 2025, scheduling (per-request pipelines, KV masks); the interleaving is the
smooth weighted round robin of nginx.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from scheduling.errors import InvalidPlan
from scheduling.helix_flow import Flow, LayerRange

Vertex = int | None
"""A node by index; None is the source as a predecessor and the sink as a successor."""


@dataclass(frozen=True, slots=True)
class Hop:
    """Layers `[start, end)` of one request on one node."""

    node: int
    start: int
    end: int


class RouteScheduler:
    """Hands out routes in proportion to a flow; owns the turns, and what KV it has promised."""

    def __init__(
        self, flow: Flow, ranges: Sequence[LayerRange], *, kv_tokens: Sequence[int]
    ) -> None:
        """Take a flow, and how many tokens' KV each node has room for.

        Args:
            flow: which the routes follow on average.
            ranges: what each node holds.
            kv_tokens: for each node, tokens whose KV fits for all layers that it holds.

        Raises:
            InvalidPlan: the flow is 0, or there is not a range and a room for each of its nodes.
        """
        if flow.tokens_per_s <= 0 or len(kv_tokens) != len(ranges):
            raise InvalidPlan(
                f"routes: expected a flow above 0 and {len(ranges)} KV rooms, got "
                f"{flow.tokens_per_s} tokens/s and {len(kv_tokens)}; place the model first"
            )
        self._ranges = tuple(ranges)
        self._weights: dict[Vertex, dict[Vertex, float]] = {}
        for (tail, head), rate in sorted(flow.links.items(), key=lambda item: str(item[0])):
            self._weights.setdefault(tail, {})[head] = rate
        self._owed: dict[tuple[Vertex, Vertex], float] = dict.fromkeys(flow.links, 0.0)
        self._rooms = tuple(kv_tokens)
        self._free = list(kv_tokens)
        self._taken: dict[str, tuple[tuple[Hop, ...], int]] = {}

    @property
    def free_tokens(self) -> tuple[int, ...]:
        """Tokens whose KV each node still has room for."""
        return tuple(self._free)

    def next_route(self, request: str, *, num_tokens: int) -> tuple[Hop, ...] | None:
        """The route of a request, or None where nodes that have room do not join up.

        Args:
            request: its id; `release` gives the room back.
            num_tokens: the most tokens, prompt and answer, whose KV it may need on every hop.

        Raises:
            InvalidPlan: the request has a route, or no empty node could ever hold it.
        """
        if request in self._taken:
            raise InvalidPlan(f"request {request!r}: expected no route yet, it has one; release it")
        nodes = self._find(num_tokens, self._free)
        if nodes is None:
            if self._find(num_tokens, self._rooms) is None:
                raise InvalidPlan(
                    f"request {request!r}: expected at most {max(self._rooms)} tokens of KV, got "
                    f"{num_tokens}; no route fits it even when empty"
                )
            return None
        self._count_turns(nodes)
        for node in nodes:
            self._free[node] -= num_tokens
        route = self._hops(nodes)
        self._taken[request] = route, num_tokens
        return route

    def release(self, request: str) -> None:
        """Give back the KV room of a request that has ended.

        Raises:
            InvalidPlan: it has no route.
        """
        if request not in self._taken:
            raise InvalidPlan(f"request {request!r}: expected one with a route, got none")
        route, num_tokens = self._taken.pop(request)
        for hop in route:
            self._free[hop.node] += num_tokens

    def _find(self, num_tokens: int, free: Sequence[int]) -> list[int] | None:
        """Nodes from source to sink with room, those that are owed most first.

        Complexity: O(E), for a node that led nowhere is not tried twice.
        """
        dead: set[int] = set()
        path: list[int] = []
        while True:
            tail = path[-1] if path else None
            heads = [
                head
                for head in self._weights.get(tail, {})
                if head is None or (free[head] >= num_tokens and head not in dead)
            ]
            if not heads and not path:
                return None
            if not heads:
                dead.add(path.pop())
                continue
            head = max(heads, key=lambda head: self._owed_next(tail, head))
            if head is None:
                return path
            path.append(head)

    def _owed_next(self, tail: Vertex, head: Vertex) -> float:
        weights = self._weights[tail]
        return self._owed[tail, head] + weights[head] / sum(weights.values())

    def _count_turns(self, nodes: Sequence[int]) -> None:
        stops: list[Vertex] = [None, *nodes, None]
        for tail, taken in zip(stops, stops[1:], strict=False):
            weights = self._weights[tail]
            total = sum(weights.values())
            for head, weight in weights.items():
                # What a masked link is owed is bounded, or it would take all turns once it is back.
                owed = self._owed[tail, head] + weight / total
                self._owed[tail, head] = min(owed, 1.0)
            self._owed[tail, taken] -= 1.0

    def _hops(self, nodes: Sequence[int]) -> tuple[Hop, ...]:
        hops, reached = [], 0
        for node in nodes:
            hops.append(Hop(node, reached, self._ranges[node][1]))
            reached = self._ranges[node][1]
        return tuple(hops)


def shares(flow: Flow) -> Mapping[tuple[Vertex, Vertex], float]:
    """Each link's part of what leaves the node it comes from."""
    totals: dict[Vertex, float] = {}
    for (tail, _), rate in flow.links.items():
        totals[tail] = totals.get(tail, 0.0) + rate
    return {link: rate / totals[link[0]] for link, rate in flow.links.items()}
