"""What pipelines share: lines between sites, and requests that pass from prefill to decode.

The one idea: one small linear program. Lines between sites carry the traffic of all pipelines, and
where prefill and decode are apart, requests flow from the one to the other, each pair by its rates,
its KV transfer and the part of requests in time (the transportation problem of ThunderServe,
arXiv 2502.09334). It takes forecasts as they are and never makes one.
"""

from collections import defaultdict
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from scipy.optimize import linprog

from scheduling.forecast import Forecast
from scheduling.placement import Group, Phase, PlacedPipeline, Placement
from scheduling.solvers.interface import Problem

Line = frozenset[str]
Flows = tuple[tuple[int, int, float], ...]
"""Requests a second from one pipeline to another, or from one to itself."""


@dataclass(frozen=True, slots=True)
class _Way:
    """Requests that one pipeline, or a pair of them, can serve."""

    pipelines: tuple[int, int]
    good_part: float
    traffic: dict[Line, float]  # bytes a request


class RequestFlows:
    """Sends as many requests as can be over one problem's pipelines."""

    def __init__(self, problem: Problem, token_bytes: float) -> None:
        """Take a problem, and the bytes that a token's activations take on a link."""
        self.problem, self._token_bytes = problem, token_bytes
        self._many_sites = len({node.site for node in problem.cluster.nodes}) > 1

    def best(
        self, placement: Placement, forecasts: tuple[Forecast, ...]
    ) -> tuple[Flows, tuple[Line, ...]]:
        """The flows that serve most, and the lines that they fill."""
        ways = self._ways(placement, forecasts)
        shared = {line for way in ways for line in way.traffic}
        apart = any(one != other for way in ways for one, other in [way.pipelines])
        if not shared and not apart:
            flows = [(*way.pipelines, forecasts[way.pipelines[0]].requests_per_s) for way in ways]
            return tuple(flows), ()
        return self._balanced(ways, placement, forecasts, sorted(shared, key=sorted))

    def _ways(self, placement: Placement, forecasts: tuple[Forecast, ...]) -> list[_Way]:
        pipelines = list(enumerate(placement.pipelines))
        both = [(i, p, i, p) for i, p in pipelines if p.phase == "both"]
        pairs = [
            (i, one, j, other)
            for i, one in pipelines
            if one.phase == "prefill"
            for j, other in pipelines
            if other.phase == "decode"
        ]
        return [
            _Way((i, j), good_part(forecasts, i, j), self._traffic(one, other))
            for i, one, j, other in both + pairs
        ]

    def traffic(self, groups: tuple[Group, ...], phase: Phase) -> dict[Line, float]:
        """Bytes that a request sends between a pipeline's stages, over each line between sites."""
        load = self.problem.workload
        tokens = {"prefill": load.mean_prompt, "decode": load.mean_output}
        tokens["both"] = tokens["prefill"] + tokens["decode"]
        traffic: dict[Line, float] = defaultdict(float)
        for a, b in pairwise(groups):
            line = self.problem.cluster.shared_link(a.node, b.node) if self._many_sites else None
            if line is not None:
                traffic[line] += tokens[phase] * self._token_bytes
        return dict(traffic)

    def _traffic(self, one: PlacedPipeline, other: PlacedPipeline) -> dict[Line, float]:
        """Bytes that a request sends over each line between sites, on its way."""
        traffic = defaultdict(float, self.traffic(one.groups, one.phase))
        if one is not other:
            for line, num_bytes in self.traffic(other.groups, other.phase).items():
                traffic[line] += num_bytes
            handed = self.problem.cluster.shared_link(one.groups[-1].node, other.groups[-1].node)
            if handed is not None:
                traffic[handed] += self._kv_bytes()
        return dict(traffic)

    def _kv_bytes(self) -> float:
        """KV of a mean prompt, as it is sent from prefill to decode."""
        load, shape, limits = self.problem.workload, self.problem.shape, self.problem.limits
        positions = shape.kv_positions(load.mean_prompt)
        return positions * shape.kv_bytes_per_token * shape.num_layers * limits.kv_transport_ratio

    def line_rate(self, line: Line) -> float:
        """Bytes a second that a line between two sites carries."""
        one, other = sorted(line)
        nodes = self.problem.cluster.nodes
        ends = [next(node.id for node in nodes if node.site == site) for site in (one, other)]
        sites = {frozenset(link.between): link.rate for link in self.problem.cluster.links}
        if line in sites:
            return sites[line].bytes_per_s
        return self.problem.cluster.link(*ends).bytes_per_s

    def _balanced(
        self,
        ways: list[_Way],
        placement: Placement,
        forecasts: tuple[Forecast, ...],
        lines: list[Line],
    ) -> tuple[Flows, tuple[Line, ...]]:
        """The flows that serve most, within what pipelines, pairs and lines can carry."""
        num = len(forecasts)
        rows = np.zeros((num + len(lines), len(ways)))
        room = np.asarray(
            [f.requests_per_s for f in forecasts] + [self.line_rate(line) for line in lines]
        )
        for column, way in enumerate(ways):
            for pipeline in set(way.pipelines):
                rows[pipeline, column] = 1.0
            for line, num_bytes in way.traffic.items():
                rows[num + lines.index(line), column] = num_bytes
        if not ways:
            return (), ()
        scale = np.maximum(room, 1e-30)
        gain = np.asarray([way.good_part + 1e-6 for way in ways])
        found = linprog(
            -gain,
            A_ub=rows / scale[:, None],
            b_ub=room / scale,
            bounds=[(0, self._pair_rate(way, placement, forecasts)) for way in ways],
        )
        flows = tuple(
            (*way.pipelines, float(flow)) for way, flow in zip(ways, found.x, strict=True)
        )
        full = tuple(
            line for line, slack in zip(lines, found.slack[num:], strict=True) if slack < 1e-6
        )
        return flows, full

    def _pair_rate(self, way: _Way, placement: Placement, forecasts: tuple[Forecast, ...]) -> float:
        """Requests a second that a pair can serve, and hand over where it is two pipelines.

        The stages of the one send to those of the other side by side, over the slowest link.
        """
        rate = min(forecasts[number].requests_per_s for number in way.pipelines)
        if way.pipelines[0] == way.pipelines[1]:
            return rate
        one, other = (placement.pipelines[number] for number in way.pipelines)
        link = self.problem.cluster.link
        slowest = min(link(a.node, b.node).bytes_per_s for a in one.groups for b in other.groups)
        at_once = min(len({g.node for g in p.groups}) for p in (one, other))
        return min(rate, slowest * at_once / self._kv_bytes())


def good_part(forecasts: tuple[Forecast, ...], one: int, other: int) -> float:
    """Part of the requests in time on a way; prefill and decode have one latency each."""
    if one == other:
        return forecasts[one].good_part
    return forecasts[one].good_part * forecasts[other].good_part
