"""Routes for requests over a flow: each link is taken as often as its share of the flow.

The one idea: interleaved weighted round robin at every node. A node owes each of its successors a
turn in proportion to the flow on the link, the one that is owed most goes next, and while a
successor has no KV room for the request, the others share its turns as the flow weighs them. A
route that meets a dead end goes around it; if none is left the request waits and nothing changes.

A route also says which layers each node computes, for ranges may overlap.

Source: Helix, ASPLOS 2025, scheduling (per-request pipelines, KV masks); the interleaving is the
smooth weighted round robin of nginx.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from scheduling.errors import InvalidPlan
from scheduling.helix.flow import Flow, LayerRange

Vertex = int | None
"""A node by index; None is the source as a predecessor and the sink as a successor."""


@dataclass(frozen=True, slots=True)
class Hop:
    """Layers `[start, end)` of one request on one node."""

    node: int
    start: int
    end: int


class _Turn(NamedTuple):
    """At `tail`, `head` was taken out of `heads`, all that had room."""

    tail: Vertex
    head: Vertex
    heads: list[Vertex]


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
        turns = self._find(num_tokens, self._free)
        if turns is None:
            if self._find(num_tokens, self._rooms) is None:
                raise InvalidPlan(
                    f"request {request!r}: expected at most {max(self._rooms)} tokens of KV, got "
                    f"{num_tokens}; no route fits it even when empty"
                )
            return None
        for turn in turns:
            self._count(turn)
        nodes = [turn.head for turn in turns if turn.head is not None]
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

    def _find(self, num_tokens: int, free: Sequence[int]) -> list[_Turn] | None:
        """A way from source to sink over nodes with room, by whose turn it is.

        Complexity: O(E), for a node that led nowhere is not tried twice.
        """
        dead: set[int] = set()
        turns: list[_Turn] = []
        while True:
            tail = turns[-1].head if turns else None
            heads = [
                head
                for head in self._weights.get(tail, {})
                if head is None or (free[head] >= num_tokens and head not in dead)
            ]
            if heads:
                head = max(
                    heads, key=lambda head: self._owed[tail, head] + self._weights[tail][head]
                )
                turns.append(_Turn(tail, head, heads))
                if head is None:
                    return turns
            elif tail is None:
                return None
            else:
                dead.add(tail)
                turns.pop()

    def _count(self, turn: _Turn) -> None:
        """Those that could have had the turn are owed their shares; the one that had it, paid."""
        weights = self._weights[turn.tail]
        total = sum(weights[head] for head in turn.heads)
        for head in turn.heads:
            self._owed[turn.tail, head] += weights[head]
        self._owed[turn.tail, turn.head] -= total

    def _hops(self, nodes: Sequence[int]) -> tuple[Hop, ...]:
        hops, reached = [], 0
        for node in nodes:
            hops.append(Hop(node, reached, self._ranges[node][1]))
            reached = self._ranges[node][1]
        return tuple(hops)
