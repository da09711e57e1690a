"""What a pipeline will do: its rate, latencies, KV room and bottleneck, from the cost model.

The one idea: a pipeline is a row of group kinds with a link between each two; whoever has the same
row gets the same forecast, computed once. Layers are split exactly for each operating point, and
the point that is best by the goal is taken. Latencies are those of a pipeline that is busy, but in
which no request waits for another to end; queues are for simulation.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from scheduling.goal import Goal
from scheduling.layer_split import SplitProblem, best_split, cycle_s
from scheduling.placement import Phase
from scheduling.roofline import LinkRate
from scheduling.stage_cost import Array, CostTable, Grid, GroupCost, GroupKind

Bottleneck = Literal["stage", "link", "latency"]


@dataclass(frozen=True, slots=True)
class Row:
    """What decides a pipeline's forecast.

    Attributes:
        groups: the stages' kinds of groups, in order.
        hops: the links between them, one fewer.
        phase: what of a request it serves.
        availability: part of the time in which none of its nodes is being recovered from.
    """

    groups: tuple[GroupKind, ...]
    hops: tuple[LinkRate, ...]
    phase: Phase = "both"
    availability: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """What a pipeline will do at its best operating point.

    Attributes:
        layers: layers of each stage.
        requests_per_s: what it completes (its phase of), spot losses taken off.
        good_part: part of the requests that keep the goal's latencies; 1 where there are none.
        cycle_s: seconds until a step comes round again.
        ttft_s: seconds to the first token of a mean prompt; 0 in the decode phase.
        tpot_s: seconds a token after it; 0 in the prefill phase.
        num_sequences: sequences that run at once.
        in_flight: steps in flight at once.
        stage_s: seconds each stage takes of a step.
        hop_s: seconds each link takes of a step.
        bottleneck: what to improve: a stage, a link, or the way through all of them.
        slowest: which stage or link that is.
        kv_tokens: tokens that the KV cache of every stage has room for.
    """

    layers: tuple[int, ...]
    requests_per_s: float
    good_part: float
    cycle_s: float
    ttft_s: float
    tpot_s: float
    num_sequences: float
    in_flight: int
    stage_s: tuple[float, ...]
    hop_s: tuple[float, ...]
    bottleneck: Bottleneck
    slowest: int
    kv_tokens: int

    @property
    def good_requests_per_s(self) -> float:
        """Requests a second that keep the goal's latencies."""
        return self.requests_per_s * self.good_part


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatingPoints:
    """All that a row can do with given layers; arrays over the sizes of step that fit, `[Q]`.

    Attributes:
        requests_per_s: what it completes (its phase of), spot losses taken off.
        cycle_s: seconds until a step comes round again.
        sequences: those that run at once, over all steps in flight.
        chunk: tokens of a prompt in a step that holds one.
        through_s: seconds that such a step takes through all stages.
        max_sequences: those that KV memory and limits allow at once.
    """

    requests_per_s: Array
    cycle_s: Array
    sequences: Array
    chunk: Array
    through_s: Array
    max_sequences: float


class Forecaster:
    """Forecasts of rows for one model, load and goal; each computed once."""

    def __init__(self, table: CostTable, goal: Goal) -> None:
        self.table, self.goal = table, goal
        self._known: dict[tuple[Row, tuple[int, ...] | None], Forecast | None] = {}
        self._prompts = np.sort(np.asarray(table.workload.prompts, np.float64))

    def forecast(self, row: Row, layers: tuple[int, ...] | None = None) -> Forecast | None:
        """What a row will do with its best layers, or with given ones; None if it cannot hold them.

        Complexity: O(S log S * Q * 34) the first time.
        """
        key = (row, layers)
        if key not in self._known:
            self._known[key] = self._compute(row, layers)
        return self._known[key]

    def points(self, row: Row, layers: tuple[int, ...]) -> OperatingPoints | None:
        """What a row can do with given layers, at every size of step; None if it cannot hold them.

        `forecast` takes the best of these by the goal; here whoever knows the load chooses.
        """
        points = _Points(self.table, row)
        counts, cycle = _with_layers(points, layers)
        fits = np.isfinite(cycle)
        if not fits.any():
            return None
        chunked = counts * points.chunk_layer_s + points.chunk_fixed_s
        through = chunked.sum(axis=0) + points.chunk_hops_s
        room = self._kv_tokens(points, counts[:, 0]) / max(1.0, _context(self.table))
        rate = points.in_flight * points.requests / np.where(fits, cycle, 1.0)
        return OperatingPoints(
            requests_per_s=rate[fits] * row.availability,
            cycle_s=cycle[fits],
            sequences=(points.in_flight * points.sequences)[fits],
            chunk=points.chunk[fits],
            through_s=through[fits],
            max_sequences=max(1.0, min(room, float(self.table.limits.max_running))),
        )

    def _compute(self, row: Row, layers: tuple[int, ...] | None) -> Forecast | None:
        num_stages = len(row.groups)
        if num_stages > self.table.shape.num_layers:
            return None
        points = _Points(self.table, row)
        if layers is None:
            counts, cycle = best_split(points.split)
        else:
            counts, cycle = _with_layers(points, layers)
        possible = np.isfinite(cycle)
        if not possible.any():
            return None
        with np.errstate(divide="ignore", invalid="ignore"):
            rate = points.in_flight * points.requests / cycle * row.availability
            good, ttft = self._good_part(points, counts, cycle)
        value = np.where(possible, rate * good, -1.0)
        # where nothing keeps the latencies, the least bad point by latency is shown
        at = int(np.argmax(value)) if value.max() > 0 else int(np.argmin(cycle))
        return self._describe(points, counts[:, at], at, float(rate[at]), good[at], ttft[at])

    def _good_part(self, points: "_Points", counts: Array, cycle: Array) -> tuple[Array, Array]:
        """Part of the requests within the goal's latencies, and TTFT of a mean prompt: `[Q]`."""
        chunked = counts * points.chunk_layer_s + points.chunk_fixed_s
        through = chunked.sum(axis=0) + points.chunk_hops_s
        if points.row.phase == "decode":
            ttft, good = np.zeros_like(cycle), np.ones_like(cycle)
        else:
            mean = np.ceil(self.table.workload.mean_prompt / points.chunk - 1e-9)
            ttft = cycle / 2 + np.maximum(mean, 1.0) * through
            good = np.ones_like(cycle)
            if self.goal.ttft_s is not None:
                chunks = np.floor((self.goal.ttft_s - cycle / 2) / through)
                longest = np.where(chunks > 0, chunks * points.chunk, 0.0)
                longest = np.where(np.isfinite(cycle), longest, 0.0)
                good = np.searchsorted(self._prompts, longest, side="right") / len(self._prompts)
        if self.goal.tpot_s is not None and points.row.phase != "prefill":
            good = good * (cycle <= self.goal.tpot_s)
        return good, ttft

    def _describe(
        self, points: "_Points", counts: Array, at: int, rate: float, good: float, ttft: float
    ) -> Forecast:
        split = points.split
        stages = counts * split.layer_s[:, at] + split.fixed_s[:, at]
        busy = np.asarray([hop[at] for hop in points.busy], np.float64)
        slowest_stage = float(stages.max())
        slowest_link = float(busy.max()) if busy.size else 0.0
        cycle = float(cycle_s(split, counts[:, None])[at])
        kind: Bottleneck = "stage" if slowest_stage >= slowest_link else "link"
        if cycle > points.in_flight[at] * max(slowest_stage, slowest_link) * (1 + 1e-9):
            kind = "latency"
        is_prefill = points.row.phase == "prefill"
        return Forecast(
            layers=tuple(int(count) for count in counts),
            requests_per_s=rate,
            good_part=float(good),
            cycle_s=cycle,
            ttft_s=float(ttft),
            tpot_s=0.0 if is_prefill else cycle,
            num_sequences=float(points.in_flight[at] * points.sequences[at]),
            in_flight=int(points.in_flight[at]),
            stage_s=tuple(float(second) for second in stages),
            hop_s=tuple(float(hop[at]) for hop in points.hop_times),
            bottleneck=kind,
            slowest=int(np.argmax(busy) if kind == "link" else np.argmax(stages)),
            kv_tokens=self._kv_tokens(points, counts),
        )

    def _kv_tokens(self, points: "_Points", counts: Array) -> int:
        table = self.table
        room = points.memory_bytes - points.ends_bytes - table.workspace_bytes
        room = room - counts * table.shape.layer_weight_bytes
        each = room / (counts * table.kv_bytes_per_token)
        # sliding layers keep less, so that the same bytes hold more tokens
        share = table.kv_tokens_each / max(1.0, _context(table))
        return int(np.floor(each.min() / share))


def _context(table: CostTable) -> float:
    limits = table.limits
    return min(table.workload.mean_context + limits.block_tokens / 2, limits.max_model_len)


class _Points:
    """All operating points of a row: each size of step with each number in flight."""

    def __init__(self, table: CostTable, row: Row) -> None:
        self.row = row
        grid = table.grid(row.phase)
        flights = table.in_flight(len(row.groups))
        costs = [table.cost(group, row.phase) for group in row.groups]
        num = len(flights)

        def tiled(rows: list[Array]) -> Array:
            return np.tile(np.stack(rows), num)

        self.in_flight = np.repeat(np.asarray(flights, np.float64), len(grid.tokens))
        self.requests = np.tile(grid.requests, num)
        self.sequences = np.tile(grid.sequences, num)
        self.chunk = np.tile(grid.chunk, num)
        self.memory_bytes = np.asarray([cost.memory_bytes for cost in costs])
        self.ends_bytes = _ends_bytes(table, len(costs))
        last = len(costs) - 1
        plain_fixed = [c.step_s + c.plain_head_s * (i == last) for i, c in enumerate(costs)]
        chunk_fixed = [c.step_s + c.chunk_head_s * (i == last) for i, c in enumerate(costs)]
        self.chunk_layer_s = tiled([cost.chunk_layer_s for cost in costs])
        self.chunk_fixed_s = tiled(chunk_fixed)
        plain_layer_s = tiled([cost.plain_layer_s for cost in costs])
        # steps keep their order, so that the one with a chunk holds all others up
        part = np.tile(grid.chunk_part, num)
        held_up = 1 - (1 - np.minimum(part, 1.0)) ** self.in_flight
        layer_s = plain_layer_s + held_up * (self.chunk_layer_s - plain_layer_s)
        fixed_s = tiled(plain_fixed)
        fixed_s = fixed_s + held_up * (self.chunk_fixed_s - fixed_s)
        nbytes = np.tile(grid.tokens, num) * table.token_bytes
        chunk_bytes = (self.sequences + self.chunk) * table.token_bytes
        self.busy = [nbytes / hop.bytes_per_s for hop in row.hops]
        self.hop_times = [b + h.latency_s for b, h in zip(self.busy, row.hops, strict=True)]
        nothing = np.zeros_like(nbytes)
        self.chunk_hops_s = nothing + sum(
            hop.latency_s + chunk_bytes / hop.bytes_per_s for hop in row.hops
        )
        self.split = SplitProblem(
            layer_s=layer_s,
            fixed_s=fixed_s,
            max_layers=self._max_layers(table, grid, costs, num),
            hops_s=nothing + sum(self.hop_times),
            busiest_link_s=np.maximum.reduce(self.busy) if self.busy else nothing,
            in_flight=self.in_flight,
            num_layers=table.shape.num_layers,
        )

    def _max_layers(self, table: CostTable, grid: Grid, costs: list[GroupCost], num: int) -> Array:
        tokens = kv_tokens(table, self.row.phase, self.in_flight, self.sequences, self.chunk)
        rows = [
            table.max_layers(float(memory), float(ends), tokens)
            for memory, ends in zip(self.memory_bytes, self.ends_bytes, strict=True)
        ]
        allowed = self.in_flight * self.sequences <= table.limits.max_running * (1 + 1e-9)
        return np.where(allowed, np.stack(rows), 0.0)


def _with_layers(points: "_Points", layers: tuple[int, ...]) -> tuple[Array, Array]:
    """Given layers and their cycle at every point, infinite where they do not fit."""
    wanted = np.asarray(layers, np.float64)[:, None]
    counts: Array = np.broadcast_to(wanted, points.split.layer_s.shape)
    fits = (counts <= points.split.max_layers).all(axis=0)
    return counts, np.where(fits, cycle_s(points.split, counts), np.inf)


def kv_tokens(
    table: CostTable, phase: Phase, in_flight: Array, sequences: Array, chunk: Array
) -> Array:
    """KV tokens that must be held at each operating point: at least one longest request's."""
    if phase == "prefill":  # those whose prompts are being computed, one a step in flight
        held = in_flight * np.maximum(chunk, table.shape.kv_positions(table.workload.mean_prompt))
    else:
        held = in_flight * sequences * table.kv_tokens_each
    return np.maximum(held, table.kv_tokens_least)


def _ends_bytes(table: CostTable, num_stages: int) -> Array:
    """Weights beside the layers: embedding on the first stage, head on the last."""
    ends = np.zeros(num_stages)
    ends[0] += table.ends_bytes
    if num_stages > 1 or not table.shape.tied:
        ends[-1] += table.ends_bytes
    return ends
