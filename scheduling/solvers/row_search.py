"""Which devices make the best pipeline, at given prices of devices: dynamic programming.

The one idea: at an operating point (steps in flight, size of a step, seconds `tau` that no stage
exceeds) a group of each class holds a known number of layers, and the pipeline's rate is known too.
What is left is a knapsack: the cheapest groups that together hold all layers, no more of them than
steps are in flight. Points that cannot beat the best one, by the knapsack's fractional bound, are
left out. The limit on the number of groups is a price on each (Lagrange), raised by bisection until
it is kept; the least price so shown is a bound, the row found is one that keeps the limit.

Links, embedding and head are taken as free here, the steps in flight are rounded down where memory
is counted and `tau` is rounded down where rate is counted. So a row's value is never less than what
the objective says of it, and the best ratio of value to price bounds all pipelines that could be.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from math import ceil, inf
from typing import Any

import numpy as np
import numpy.typing as npt

from scheduling.forecast import kv_tokens
from scheduling.inventory import GroupClass, Inventory
from scheduling.objective import Objective
from scheduling.placement import PHASES, Phase
from scheduling.stage_cost import Array

_FLIGHT_STEP = 1.12
_CHUNK = 192
_KEPT = 6
_NUM_HALVINGS = 12
_FEW_HALVINGS = 6
_ENOUGH_CHUNKS = 2
_MOST_CHUNKS = 8
_EXTRA_PRICES = (0.0, 0.1, 0.3, 1.0, 3.0)

Counts = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class RowChoice:
    """Groups of each class for a pipeline.

    Attributes:
        counts: groups of each class, in the search's order of classes.
        value: requests a second, at least as much as the pipeline can do.
        price: what the groups cost by the prices given.
        least_price: what any groups cost that can do as much; no more than `price`.
    """

    counts: Counts
    value: float
    price: float
    least_price: float

    @property
    def ratio(self) -> float:
        """Value for the least price."""
        return self.value / self.least_price


@dataclass(frozen=True, slots=True)
class _Points:
    """Operating points: layers that a group of each class holds `[C, Q]`, values, most groups."""

    layers: npt.NDArray[np.int16]
    values: Array
    most_groups: npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class _Resolution:
    """How finely operating points are looked at: every so many sizes, and from `tau` to `tau`."""

    sizes: int
    tau_step: float


_FINE = _Resolution(1, 1.02)
_COARSE = _Resolution(2, 1.06)
"""Enough to find good rows, not to prove them best."""


@dataclass(frozen=True, slots=True)
class RowSearches:
    """The searches of a problem: over all classes in each phase, and within each of many sites."""

    inventory: Inventory
    by_phase: Mapping[Phase, "RowSearch"]
    by_site: tuple["RowSearch", ...]

    @property
    def all(self) -> tuple["RowSearch", ...]:
        """Those whose rows together are all there can be."""
        return (*self.by_phase.values(), *self.by_site)

    @classmethod
    def of(cls, objective: Objective) -> "RowSearches":
        """The problem's own, whose points are computed once for all solvers."""
        derived = objective.problem.derived
        if "searches" not in derived:
            derived["searches"] = cls._make(objective)
        found: RowSearches = derived["searches"]
        return found

    @classmethod
    def _make(cls, objective: Objective) -> "RowSearches":
        inventory = Inventory(objective)
        phases = PHASES if objective.problem.limits.disaggregate else PHASES[:1]
        classes = inventory.group_classes
        sites = sorted({found.device.site for found in classes})
        by_site = [
            RowSearch(inventory, "both", [c for c in classes if c.device.site == site])
            for site in (sites if len(sites) > 1 else [])
        ]
        # a row of several sites crosses a line between two of them; others are found by site
        crossed = _fastest_line(objective) if by_site else inf
        by_phase = {
            p: RowSearch(inventory, p, None, crossed if len(phases) == 1 else inf) for p in phases
        }
        return cls(inventory, by_phase, tuple(by_site))


def _fastest_line(objective: Objective) -> float:
    """Bytes a second between nodes of two sites, at most."""
    cluster = objective.problem.cluster
    first = {node.site: node.id for node in reversed(cluster.nodes)}
    between = [cluster.link(a, b).bytes_per_s for a, b in combinations(first.values(), 2)]
    return max([*between, *(link.rate.bytes_per_s for link in cluster.links)])


class RowSearch:
    """Searches rows of groups of some classes, for one phase.

    `crossed_bytes_per_s` is a link that every row crosses: its steps are no faster.
    """

    def __init__(
        self,
        inventory: Inventory,
        phase: Phase = "both",
        classes: Sequence[GroupClass] | None = None,
        crossed_bytes_per_s: float = inf,
    ) -> None:
        self.inventory, self.phase = inventory, phase
        self._crossed_bytes_per_s = crossed_bytes_per_s
        self.classes = tuple(inventory.group_classes if classes is None else classes)
        self._table = inventory.objective.table
        self._goal = inventory.objective.problem.goal
        self.num_layers = self._table.shape.num_layers
        self.limits = np.asarray(
            [inventory.num_devices(c.device) // c.tp for c in self.classes], np.int64
        )
        table = self._table
        self.spare_layers = ceil(2 * table.ends_bytes / table.shape.layer_weight_bytes)

    @cached_property
    def _points(self) -> _Points:
        return self._points_at(_FINE)

    @cached_property
    def _coarse_points(self) -> _Points:
        return self._points_at(_COARSE)

    def _points_at(self, resolution: _Resolution) -> _Points:
        flights = self._flights()
        ends = [*(flight - 1 for flight in flights[1:]), flights[-1]]
        parts = [self._at(*span, resolution) for span in zip(flights, ends, strict=True)]
        return _Points(
            np.concatenate([part.layers for part in parts], axis=1),
            np.concatenate([part.values for part in parts]),
            np.concatenate([part.most_groups for part in parts]),
        )

    def search(
        self,
        prices: Array,
        available: Mapping[GroupClass, int] | None = None,
        *,
        spare: bool = False,
        proven: bool = False,
    ) -> list[RowChoice]:
        """Rows with the most value for their price, best first.

        Args:
            prices: of a group of each class; more than 0.
            available: groups of each class that can be taken; all of the cluster's if not given.
            spare: ask for room for embedding and head too.
            proven: look at every point that could be best, so that the first one's ratio of value
                to `least_price` bounds all; else at the most promising ones of a coarser grid.
        """
        limits = self.limits
        if available is not None:
            limits = np.asarray([available.get(c, 0) for c in self.classes], np.int64)
        needed = self.num_layers + (self.spare_layers if spare else 0)
        limits = np.minimum(limits, needed)
        points = self._points if proven else self._coarse_points
        if not (limits > 0).any() or not points.values.size:
            return []
        ratio_bound = _ratio_bound(points, prices, limits, needed)
        order = np.argsort(-ratio_bound, kind="stable")
        found: dict[Counts, RowChoice] = {}
        best = 0.0
        for num_chunks, begin in enumerate(range(0, len(order), _CHUNK)):
            chunk = order[begin : begin + _CHUNK]
            chunk = chunk[ratio_bound[chunk] > best * (1 + 1e-12)]
            is_enough = not proven and num_chunks >= (_ENOUGH_CHUNKS if found else _MOST_CHUNKS)
            if not chunk.size or is_enough:
                break
            halvings = _NUM_HALVINGS if proven else _FEW_HALVINGS
            for choice in self._solve(points, chunk, prices, limits, needed, halvings):
                known = found.get(choice.counts)
                if known is None or choice.ratio > known.ratio:
                    found[choice.counts] = choice
                best = max(best, choice.ratio)
        return sorted(found.values(), key=lambda choice: -choice.ratio)

    def _flights(self) -> list[int]:
        """Steps in flight, each standing for all up to the next."""
        most_stages = min(self.num_layers, int(self.limits.sum()))
        most, flights = max(self._table.in_flight(most_stages)), [1]
        while flights[-1] < most:
            flights.append(max(flights[-1] + 1, int(flights[-1] * _FLIGHT_STEP)))
        return flights

    def _at(self, flight: int, last: int, resolution: _Resolution) -> _Points:
        """Points with `flight` to `last` steps in flight: sizes of step times `tau`s."""
        table, phase, step = self._table, self.phase, resolution.tau_step
        grid = table.grid(phase)
        some = slice(None, None, resolution.sizes)
        sequences, chunk = grid.sequences[some], grid.chunk[some]
        costs = [table.cost(c.group, phase) for c in self.classes]
        allowed = flight * sequences <= table.limits.max_running * (1 + 1e-9)
        layer_s = np.stack([cost.layer_s[some] for cost in costs])
        spread = float((layer_s.max(axis=0) / layer_s.min(axis=0)).max())
        most = self.num_layers + self.spare_layers
        num_taus = ceil(np.log(most * spread) / np.log(step)) + 1
        tau = layer_s.min(axis=0)[:, None] * step ** np.arange(num_taus)[None, :]
        tokens = kv_tokens(table, phase, np.full_like(sequences, flight), sequences, chunk)
        fits = np.stack([table.max_layers(cost.memory_bytes, 0.0, tokens) for cost in costs])
        # what holds up to the next tau counts as held at this one
        timely = np.floor(tau[None] * step / layer_s[:, :, None] + 1e-9)
        layers = np.minimum(np.minimum(timely, fits[:, :, None]), most).astype(np.int16)
        values = grid.requests[some, None] / tau * self._best_availability()
        crossed_s = grid.tokens[some] * table.token_bytes / self._crossed_bytes_per_s
        keep = allowed[:, None] & (layers.max(axis=0) > 0) & (tau * step >= crossed_s[:, None])
        if self._goal.tpot_s is not None and phase != "prefill":
            keep &= flight * tau <= self._goal.tpot_s
        best = layers.max(axis=0).astype(np.int64)
        keep &= best * min(last, int(self.limits.sum())) >= self.num_layers
        kept = layers[:, keep]
        groups = np.full(kept.shape[1], last, np.int64)
        room = _most_layers(kept, np.minimum(self.limits, self.num_layers), groups)
        holds = room >= self.num_layers
        return _Points(kept[:, holds], values[keep][holds], groups[holds])

    def _best_availability(self) -> float:
        return max(c.device.availability for c in self.classes)

    def _solve(
        self,
        points: _Points,
        chunk: npt.NDArray[np.intp],
        prices: Array,
        limits: npt.NDArray[np.int64],
        needed: int,
        halvings: int,
    ) -> list[RowChoice]:
        """Cheapest rows at some points, those of the best ratio."""
        layers = points.layers[:, chunk].astype(np.int64)
        values, most = points.values[chunk], points.most_groups[chunk]
        items = _items(limits, needed)
        extra, least = _extra_prices(layers, prices, items, needed, most, halvings)
        with np.errstate(divide="ignore"):
            ratio = np.where(np.isfinite(least), values / least, 0.0)
        best = np.argsort(-ratio, kind="stable")[:_KEPT]
        found = []
        for q in best:
            if ratio[q] > 0:
                counts = _walk_back(layers[:, q], prices + extra[q], items, needed)
                price = float(np.asarray(counts) @ prices)
                found.append(RowChoice(counts, float(values[q]), price, float(least[q])))
        return found


def _ratio_bound(
    points: _Points, prices: Array, limits: npt.NDArray[np.int64], needed: int
) -> Array:
    """What a row's value for its price can be at most, at each point: the fractional knapsack.

    With an extra price on each group, `m` groups that hold `needed` layers cost at least
    `needed * min((price + extra) / layers) - extra * m`, whatever the extra price is.
    """
    layers = np.where((limits > 0)[:, None], points.layers, 0)
    least = np.zeros(len(points.values))
    for times in _EXTRA_PRICES:
        extra = times * float(prices.mean())
        best_each = (layers / (np.maximum(prices, 1e-30) + extra)[:, None]).max(axis=0)
        with np.errstate(divide="ignore"):
            least = np.maximum(least, needed / best_each - extra * points.most_groups)
    bound: Array = np.where(np.isfinite(least), points.values / np.maximum(least, 1e-300), 0.0)
    return bound


def _most_layers(
    layers: npt.NDArray[Any], limits: npt.NDArray[np.int64], groups: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """Layers that some number of groups can hold at most, at each point."""
    order = np.argsort(-layers, axis=0, kind="stable")
    counts = limits[order]
    before = np.cumsum(counts, axis=0) - counts
    taken = np.clip(groups - before, 0, counts)
    total: npt.NDArray[np.int64] = (np.take_along_axis(layers, order, axis=0) * taken).sum(axis=0)
    return total


def _extra_prices(
    layers: npt.NDArray[np.int64],
    prices: Array,
    items: list[tuple[int, int]],
    needed: int,
    most_groups: npt.NDArray[np.int64],
    halvings: int,
) -> tuple[Array, Array]:
    """A price on every group that keeps their number within its limit, and the least total price.

    Returns:
        the extra price and the bound on the total, `[Q]` each.
    """
    extra = np.zeros(layers.shape[1])
    least, num_groups = _cheapest(layers, prices, items, needed, extra)
    over = np.isfinite(least) & (num_groups > most_groups)
    if not over.any():
        return extra, least
    room = _most_layers(layers, _limits_of(items, len(prices)), most_groups)
    least[over & (room < needed)] = np.inf
    over &= room >= needed
    if not over.any():
        return extra, least
    low, high = np.zeros(int(over.sum())), np.full(int(over.sum()), needed * prices.max())
    its, most, best = layers[:, over], most_groups[over], least[over]
    for _ in range(halvings):
        middle = (low + high) / 2
        total, counted = _cheapest(its, prices, items, needed, middle)
        best = np.maximum(best, total - middle * most)
        keeps = counted <= most
        high, low = np.where(keeps, middle, high), np.where(keeps, low, middle)
    extra[over], least[over] = high, best
    return extra, least


def _cheapest(
    layers: npt.NDArray[np.int64],
    prices: Array,
    items: list[tuple[int, int]],
    needed: int,
    extra: Array,
) -> tuple[Array, npt.NDArray[np.int64]]:
    """Least price of groups that hold the layers needed, and how many they are: `[Q]` each."""
    num_points = layers.shape[1]
    costs = np.full((needed + 1, num_points), np.inf)
    costs[0] = 0.0
    counts = np.zeros((needed + 1, num_points), np.int64)
    at = np.arange(needed + 1)[:, None]
    columns = np.arange(num_points)[None, :]
    for which, times in items:
        before = np.maximum(at - times * layers[which], 0) * num_points + columns
        moved = costs.ravel()[before] + times * (prices[which] + extra)
        is_better = moved < costs
        counts = np.where(is_better, counts.ravel()[before] + times, counts)
        costs = np.where(is_better, moved, costs)
    return costs[-1], counts[-1]


def _items(limits: npt.NDArray[np.int64], needed: int) -> list[tuple[int, int]]:
    """Class and number of groups that are taken together: 1, 2, 4, ..., so that all counts can be.

    A class held to `n` copies by powers of two and a rest can be taken 0 to `n` times.
    """
    items = []
    for which, limit in enumerate(limits):
        left, size = min(int(limit), needed), 1
        while left > 0:
            items.append((which, min(size, left)))
            left -= size
            size *= 2
    return items


def _limits_of(items: list[tuple[int, int]], num_classes: int) -> npt.NDArray[np.int64]:
    limits = np.zeros(num_classes, np.int64)
    for which, times in items:
        limits[which] += times
    return limits


def _walk_back(
    layers: npt.NDArray[np.int64], prices: Array, items: list[tuple[int, int]], needed: int
) -> Counts:
    """The counts of the cheapest row at one point."""
    costs = np.full(needed + 1, np.inf)
    costs[0] = 0.0
    table, at = [costs], np.arange(needed + 1)
    for which, times in items:
        before = np.maximum(at - times * layers[which], 0)
        costs = np.minimum(costs, costs[before] + times * prices[which])
        table.append(costs)
    counts, left = [0] * len(layers), needed
    for (which, times), costs, previous in zip(
        reversed(items), reversed(table[1:]), reversed(table[:-1]), strict=True
    ):
        if costs[left] < previous[left]:
            counts[which] += times
            left = max(0, left - times * int(layers[which]))
    return tuple(counts)
