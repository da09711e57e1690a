"""Which devices make the best pipeline, at given prices of devices: dynamic programming.

The one idea: at each operating point (`row_points`) a knapsack is left (`row_knapsack`): the
cheapest groups that together hold all layers, no more of them than steps are in flight. Points
that cannot beat the best one, by the knapsack's fractional bound, are left out.

A row's value is never less than what the objective says of it, and its least price is no more than
it costs, so that the best ratio of value to price bounds all pipelines that could be.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import ceil, inf

import numpy as np
import numpy.typing as npt

from scheduling.inventory import GroupClass, Inventory
from scheduling.placement import Phase
from scheduling.solvers.row_knapsack import (
    Counts,
    Integers,
    extra_prices,
    items_of,
    ratio_bound,
    walk_back,
)
from scheduling.solvers.row_points import COARSE, FINE, PointGrid, Points
from scheduling.stage_cost import Array

_CHUNK = 192
_KEPT = 6
_LEAST_PRICE = 1e-12
_NUM_HALVINGS = 12
_FEW_HALVINGS = 6
_ENOUGH_CHUNKS = 2
_MOST_CHUNKS = 8


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
        self.classes = tuple(inventory.group_classes if classes is None else classes)
        table = inventory.objective.table
        self.num_layers = table.shape.num_layers
        self.limits = np.asarray(
            [inventory.num_devices(c.device) // c.tp for c in self.classes], np.int64
        )
        self.spare_layers = ceil(2 * table.ends_bytes / table.shape.layer_weight_bytes)
        self._grid = PointGrid(
            table=table,
            goal=inventory.objective.problem.goal,
            phase=phase,
            classes=self.classes,
            limits=self.limits,
            spare_layers=self.spare_layers,
            crossed_bytes_per_s=crossed_bytes_per_s,
        )

    @cached_property
    def _points(self) -> Points:
        return self._grid.points(FINE)

    @cached_property
    def _coarse_points(self) -> Points:
        return self._grid.points(COARSE)

    def search(
        self,
        prices: Array,
        available: Mapping[GroupClass, int] | None = None,
        *,
        spare: bool = False,
        proven: bool = False,
        enough: float = inf,
    ) -> list[RowChoice]:
        """Rows with the most value for their price, best first.

        Args:
            prices: of a group of each class; what costs nothing counts as next to nothing.
            available: groups of each class that can be taken; all of the cluster's if not given.
            spare: ask for room for embedding and head too.
            proven: look at every point that could be best, so that the first one's ratio of value
                to `least_price` bounds all; else at the most promising ones of a coarser grid.
            enough: requests a second beyond which more is worth nothing.
        """
        prices = np.maximum(prices, _LEAST_PRICE)
        limits = self.limits
        if available is not None:
            limits = np.asarray([available.get(c, 0) for c in self.classes], np.int64)
        needed = self.num_layers + (self.spare_layers if spare else 0)
        limits = np.minimum(limits, needed)
        points = self._points if proven else self._coarse_points
        if enough < inf:
            points = replace(points, values=np.minimum(points.values, enough))
        if not (limits > 0).any() or not points.values.size:
            return []
        most_ratio = ratio_bound(
            points.layers, points.values, points.most_groups, prices, limits, needed
        )
        order = np.argsort(-most_ratio, kind="stable")
        found: dict[Counts, RowChoice] = {}
        best = 0.0
        for num_chunks, begin in enumerate(range(0, len(order), _CHUNK)):
            chunk = order[begin : begin + _CHUNK]
            chunk = chunk[most_ratio[chunk] > best * (1 + 1e-12)]
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

    def _solve(
        self,
        points: Points,
        chunk: npt.NDArray[np.intp],
        prices: Array,
        limits: Integers,
        needed: int,
        halvings: int,
    ) -> list[RowChoice]:
        """Cheapest rows at some points, those of the best ratio."""
        layers = points.layers[:, chunk].astype(np.int64)
        values, most = points.values[chunk], points.most_groups[chunk]
        items = items_of(limits, needed)
        extra, least = extra_prices(layers, prices, items, needed, most, halvings)
        with np.errstate(divide="ignore"):
            ratio = np.where(np.isfinite(least), values / least, 0.0)
        best = np.argsort(-ratio, kind="stable")[:_KEPT]
        found = []
        for q in best:
            if ratio[q] > 0:
                counts = walk_back(layers[:, q], prices + extra[q], items, needed)
                price = float(np.asarray(counts) @ prices)
                found.append(RowChoice(counts, float(values[q]), price, float(least[q])))
        return found
