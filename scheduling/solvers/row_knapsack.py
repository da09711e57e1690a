"""The cheapest groups that together hold all layers, at many operating points at once.

The one idea: a knapsack over classes with bounded copies, as arrays over the points. The limit on
the number of groups is a price on each (Lagrange), raised by bisection until it is kept; the least
price so shown is a bound, and so is the fractional knapsack, which says beforehand which points
can matter. It knows layers, prices and limits, never a device.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from scheduling.stage_cost import Array

_EXTRA_PRICES = (0.0, 0.1, 0.3, 1.0, 3.0)

Counts = tuple[int, ...]
Layers = npt.NDArray[np.integer[Any]]
Integers = npt.NDArray[np.int64]


def ratio_bound(
    held: Layers,
    values: Array,
    most_groups: Integers,
    prices: Array,
    limits: Integers,
    needed: int,
) -> Array:
    """What a row's value for its price can be at most, at each point: the fractional knapsack.

    With an extra price on each group, `m` groups that hold `needed` layers cost at least
    `needed * min((price + extra) / layers) - extra * m`, whatever the extra price is.
    """
    layers = np.where((limits > 0)[:, None], held, 0)
    least = np.zeros(len(values))
    for times in _EXTRA_PRICES:
        extra = times * float(prices.mean())
        best_each = (layers / (np.maximum(prices, 1e-30) + extra)[:, None]).max(axis=0)
        with np.errstate(divide="ignore"):
            least = np.maximum(least, needed / best_each - extra * most_groups)
    bound: Array = np.where(np.isfinite(least), values / np.maximum(least, 1e-300), 0.0)
    return bound


def most_layers(layers: npt.NDArray[Any], limits: Integers, groups: Integers) -> Integers:
    """Layers that some number of groups can hold at most, at each point."""
    order = np.argsort(-layers, axis=0, kind="stable")
    counts = limits[order]
    before = np.cumsum(counts, axis=0) - counts
    taken = np.clip(groups - before, 0, counts)
    total: Integers = (np.take_along_axis(layers, order, axis=0) * taken).sum(axis=0)
    return total


def extra_prices(
    layers: Integers,
    prices: Array,
    items: list[tuple[int, int]],
    needed: int,
    most_groups: Integers,
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
    room = most_layers(layers, _limits_of(items, len(prices)), most_groups)
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
    layers: Integers,
    prices: Array,
    items: list[tuple[int, int]],
    needed: int,
    extra: Array,
) -> tuple[Array, Integers]:
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


def items_of(limits: Integers, needed: int) -> list[tuple[int, int]]:
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


def _limits_of(items: list[tuple[int, int]], num_classes: int) -> Integers:
    limits = np.zeros(num_classes, np.int64)
    for which, times in items:
        limits[which] += times
    return limits


def walk_back(layers: Integers, prices: Array, items: list[tuple[int, int]], needed: int) -> Counts:
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
