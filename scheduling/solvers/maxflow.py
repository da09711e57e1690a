"""Overlapping layer ranges by the flow they carry, then the pipelines that such a flow comes to.

The one idea: where a request may enter a node in the middle of its layers, a placement is worth its
maximum flow, which a fraction of a millisecond tells; so that many are tried (`flow_search`). What
a service runs are pipelines that cover all layers once: each better flow is taken apart into rows
of nodes that share none (`flow_rows`), the best of them is walked on from (`tabu`), and all are
scored by the objective. The flow's bound holds for pipelines too, and the best overlapping
placement comes beside the plan, so that what pipelines lose by covering once is seen.

Limits: a flow is of requests that one pipeline serves in both phases, and knows no money: with a
budget it is of the nodes that do most for their price, and phases are parted by the walk alone.

Source: Helix, ASPLOS 2025, for the flow; there a mixed integer programme is solved instead.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from math import inf

from scheduling.errors import TooLarge
from scheduling.flow_cluster import flow_cluster, groups_of_degree, kv_room
from scheduling.inventory import Inventory
from scheduling.objective import Objective
from scheduling.overlapping import Overlapping
from scheduling.placement import Group, Placement
from scheduling.solvers import tabu
from scheduling.solvers.build import Built
from scheduling.solvers.flow_rows import pipelines_of_flow, rows_of
from scheduling.solvers.flow_search import search
from scheduling.solvers.interface import Budget, Problem, Solution

NAME = "maxflow"
MAX_GROUPS = 128
"""Nodes of a flow: beyond, a single flow takes longer than a whole plan may."""
_FLOW_PART = 0.25


def solve(
    problem: Problem, *, budget: Budget, seed: int = 0, start: Placement | None = None
) -> Iterator[Solution]:
    """Yield better plans, each with the best overlapping placement found so far.

    Args:
        problem: up to `MAX_GROUPS` groups of devices.
        budget: looked at between flows, and between steps of the walk.
        seed: of the annealing and of the walk.
        start: a placement to walk on from, if no flow comes to a better one.

    Raises:
        TooLarge: there are too many groups.
    """
    flows = _Flows(problem)
    best: Solution | None = None
    if start is not None:
        best = flows.solution(start)
    for placement in flows.placements(budget, seed):
        found = flows.solution(placement)
        if found is not None and (best is None or found.score > best.score):
            best = found
            yield best
    if best is None:
        return
    for walked in tabu.solve(problem, budget=budget, seed=seed, start=best.placement):
        best = replace(walked, bound=flows.bound, solver=NAME, overlapping=flows.best)
        yield best
    if best.overlapping is not flows.best:
        yield replace(best, overlapping=flows.best)


class _Flows:
    """The flows of one problem: one for each degree of TP that its nodes allow."""

    def __init__(self, problem: Problem) -> None:
        self._objective = Objective.of(problem)
        self._problem = problem
        self._inventory = Inventory(self._objective)
        self.best: Overlapping | None = None
        self._bounds: list[float] = []
        widest = max(device.node_size for device in self._inventory.device_classes)
        self._degrees = tuple(self._inventory.degrees(widest))

    @property
    def bound(self) -> float:
        """What no pipelines exceed; infinite where a flow does not say."""
        goal, limits = self._problem.goal, self._problem.limits
        counts_all = goal.measure != "cost" and not limits.disaggregate and limits.max_tp == 1
        return self._bounds[0] if counts_all and self._bounds else inf

    def solution(self, placement: Placement) -> Solution | None:
        """A placement with its score; None if it is empty or too dear."""
        if not placement.pipelines or not self._objective.is_affordable(placement):
            return None
        score = self._objective.score(placement)
        return Solution(
            placement=placement,
            score=score,
            bound=max(self.bound, score),
            solver=NAME,
            overlapping=self.best,
        )

    def placements(self, budget: Budget, seed: int) -> Iterator[Placement]:
        """What the flows come to, one after another; first rows that need no flow."""
        for number, degree in enumerate(self._degrees):
            groups = groups_of_degree(self._inventory, degree)
            if len(groups) > MAX_GROUPS:
                raise TooLarge(
                    f"maxflow: expected at most {MAX_GROUPS} groups of devices, got {len(groups)}; "
                    f"use --solver auto, dp or tabu"
                )
            for row in rows_of(self._inventory, groups):
                yield self._placement([row])
            left = len(self._degrees) - number
            part = budget.part(budget.left_s * _FLOW_PART / left)
            yield from self._from_flows(groups, part, seed)

    def _from_flows(
        self, groups: Sequence[Group], budget: Budget, seed: int
    ) -> Iterator[Placement]:
        chosen = self._affordable(groups)
        if chosen != tuple(groups):  # the bound is of all nodes, the flow of those paid for
            self._bounds.append(inf)
        if not chosen:
            return
        cluster = flow_cluster(self._objective, chosen)
        for found in search(cluster, budget=budget, seed=seed):
            self._bounds.append(found.bound)
            if self.best is None or found.score > self.best.tokens_per_s:
                rooms = zip(chosen, found.ranges, strict=True)
                self.best = Overlapping(
                    groups=chosen,
                    ranges=found.ranges,
                    flow=found.flow,
                    bound=found.bound,
                    kv_tokens=tuple(kv_room(self._objective, *room) for room in rooms),
                )
            rows = pipelines_of_flow(self._inventory, cluster, chosen, found)
            yield self._placement(rows)

    def _affordable(self, groups: Sequence[Group]) -> tuple[Group, ...]:
        """The groups of the nodes that do most for their price, within the budget of money."""
        money = self._problem.goal.budget_per_hour
        if money is None:
            return tuple(groups)
        table = self._objective.table
        speed: dict[str, float] = {}
        for group in groups:
            cost = table.cost(self._objective.group_kind(group), "both")
            speed[group.node] = speed.get(group.node, 0.0) + 1 / float(cost.layer_s[-1])
        price = self._objective.price
        chosen: set[str] = set()
        for node in sorted(speed, key=lambda n: (-speed[n] / max(price(n), 1e-9), n)):
            if sum(map(price, sorted({*chosen, node}))) <= money * (1 + 1e-9):
                chosen.add(node)
        return tuple(group for group in groups if group.node in chosen)

    def _placement(self, rows: Sequence[Built]) -> Placement:
        found = (self._objective.best_pipeline(row.groups, row.phase) for row in rows)
        return Placement(tuple(pipeline for pipeline in found if pipeline is not None))
