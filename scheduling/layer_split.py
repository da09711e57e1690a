"""How many layers each stage of a pipeline gets, so that its cycle is shortest, exactly.

All operating points are solved at once.

The one idea: with `M` steps in flight, each comes round once a cycle of

    max(M * slowest stage or link, all stages and links one after another)

and a stage's time is a line in its layers. For a given slowest stage `tau` each stage's most layers
are known, and giving what is over to the fastest first makes the sum least; the first term grows
with `tau` and the second falls, so the best `tau` is where they meet, found by bisection.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from scheduling.stage_cost import Array

Index = npt.NDArray[np.intp]

_NUM_HALVINGS = 34
_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class SplitProblem:
    """Stages of one pipeline at `Q` operating points.

    Attributes:
        layer_s: seconds a layer takes on each stage, `[S, Q]`.
        fixed_s: seconds a stage takes beyond its layers (the head), `[S, Q]`.
        max_layers: what fits each stage's memory, `[S, Q]`.
        hops_s: seconds that all links take one after another, `[Q]`.
        busiest_link_s: seconds that the slowest link is busy with a step, `[Q]`.
        in_flight: steps in flight, `[Q]`.
        num_layers: layers of the model.
    """

    layer_s: Array
    fixed_s: Array
    max_layers: Array
    hops_s: Array
    busiest_link_s: Array
    in_flight: Array
    num_layers: int


def best_split(problem: SplitProblem) -> tuple[Array, Array]:
    """Layers of each stage `[S, Q]`, and the cycle's seconds `[Q]`; infinite where nothing fits.

    Complexity: O(S log S * Q) a halving.
    """
    fits = _fits(problem)
    high = (problem.num_layers * problem.layer_s + problem.fixed_s).sum(axis=0) + problem.hops_s
    high = np.maximum(high, problem.busiest_link_s)
    low = np.zeros_like(high)
    order = np.argsort(problem.layer_s, axis=0, kind="stable")
    for _ in range(_NUM_HALVINGS):
        middle = (low + high) / 2
        is_enough = _is_enough(problem, middle, order)
        high = np.where(is_enough, middle, high)
        low = np.where(is_enough, low, middle)
    counts = _fill(problem, high, order)
    cycle = np.where(fits, cycle_s(problem, counts), np.inf)
    return counts, cycle


def cycle_s(problem: SplitProblem, counts: Array) -> Array:
    """Seconds until a step comes round again, for given layers of each stage."""
    stages = counts * problem.layer_s + problem.fixed_s
    slowest = np.maximum(stages.max(axis=0), problem.busiest_link_s)
    cycle: Array = np.maximum(problem.in_flight * slowest, stages.sum(axis=0) + problem.hops_s)
    return cycle


def _fits(problem: SplitProblem) -> Array:
    enough = problem.max_layers.sum(axis=0) >= problem.num_layers
    result: Array = enough & (problem.max_layers.min(axis=0) >= 1)
    return result


def _most(problem: SplitProblem, tau: Array) -> Array:
    """Layers that each stage can hold and compute within a time."""
    within = np.floor((tau - problem.fixed_s) / problem.layer_s + _ROUNDING)
    most: Array = np.minimum(problem.max_layers, within)
    return most


def _is_enough(problem: SplitProblem, tau: Array, order: Index) -> Array:
    most = _most(problem, tau)
    possible = (most.sum(axis=0) >= problem.num_layers) & (most.min(axis=0) >= 1)
    counts = _fill_within(problem, most, order)
    total = (counts * problem.layer_s + problem.fixed_s).sum(axis=0) + problem.hops_s
    result: Array = possible & (total <= problem.in_flight * tau) & (problem.busiest_link_s <= tau)
    return result


def _fill(problem: SplitProblem, tau: Array, order: Index) -> Array:
    return _fill_within(problem, _most(problem, tau), order)


def _fill_within(problem: SplitProblem, most: Array, order: Index) -> Array:
    """A layer for each stage, and the rest to the fastest first."""
    room = np.take_along_axis(most, order, axis=0) - 1
    before = np.cumsum(room, axis=0) - room
    rest = problem.num_layers - most.shape[0]
    taken = 1 + np.clip(rest - before, 0, np.maximum(room, 0))
    counts = np.empty_like(taken)
    np.put_along_axis(counts, order, taken, axis=0)
    result: Array = counts
    return result
