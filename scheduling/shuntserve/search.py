"""The best placement on ShuntServe's estimator, with a bound that says how good it can be at most.

The one idea: the order of the stages matters to the estimator only at the two ends, and for a fixed
batch a stage's times are affine in its layers. So each set of machines has a best pipeline that a
scan over batches finds, and the pipelines to run side by side are an integer programme over those.
The published method (`scheduling.shuntserve.beam`) takes them greedily, one after another.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp

from scheduling.errors import Infeasible
from scheduling.shuntserve.beam import Pipeline, Preference, Used
from scheduling.shuntserve.catalogue import InstanceType
from scheduling.shuntserve.chain import ChainSplitter
from scheduling.shuntserve.estimator import Estimator, Stage

_SLACK = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Pipelines side by side and what they can do.

    Attributes:
        pipelines: best first.
        requests_per_s: their predicted throughput together.
        bound: no placement on these machines, within the budget, is predicted more.
    """

    pipelines: tuple[Pipeline, ...]
    requests_per_s: float
    bound: float


def best_placement(
    estimator: Estimator,
    stock: Mapping[InstanceType, int],
    *,
    preference: Preference | None = None,
    max_stages: int | None = None,
) -> Placement:
    """The pipelines with the most predicted throughput in total.

    Args:
        estimator: of the model.
        stock: machines there are, by type.
        preference: prices and the budget. Its SLO must be None: throughput alone is maximised here.
        max_stages: the longest pipeline to look at; the stock when None. The bound holds for
            pipelines of this length.

    Raises:
        Infeasible: no pipeline fits the stock and the budget.
        ValueError: the preference has an SLO.

    Complexity: a scan over batches for each multiset of machines and choice of its two ends.
    """
    preference = preference or Preference()
    if preference.latency_slo_s is not None:
        raise ValueError(
            f"preference.latency_slo_s: expected None, got {preference.latency_slo_s}; "
            "this search maximises throughput alone, use beam_placement for the penalised score"
        )
    search = _Search(estimator, stock, preference)
    used = search.run(max_stages or sum(stock.values()))
    if not used:
        raise Infeasible(
            f"{estimator.shape.num_layers} layers: expected a pipeline from "
            f"{ {i.name: n for i, n in stock.items()} } within {preference.budget_per_hour} $/h, "
            "got none that fits; add machines or raise the budget"
        )
    pipelines = sorted((search.pipelines[key] for key in used), key=lambda p: -p.requests_per_s)
    return Placement(
        pipelines=tuple(pipelines),
        requests_per_s=sum(pipeline.requests_per_s for pipeline in pipelines),
        bound=sum(search.bounds[key] for key in used),
    )


class _Search:
    """Bounds on every multiset of machines, made exact only where the best packing uses them."""

    def __init__(
        self, estimator: Estimator, stock: Mapping[InstanceType, int], preference: Preference
    ) -> None:
        self._estimator = estimator
        self._splitter = ChainSplitter(estimator)
        self._kinds = [kind for kind, count in stock.items() if count]
        self._counts = tuple(stock[kind] for kind in self._kinds)
        self._prices = np.array([preference.price(kind) for kind in self._kinds])
        self._budget = preference.budget_per_hour
        self.bounds: dict[Used, float] = {}
        self.pipelines: dict[Used, Pipeline] = {}

    def run(self, max_stages: int) -> list[Used]:
        """The multisets of the best packing; each of them has its pipeline then."""
        for used in _multisets(self._counts, max_stages):
            limit = self._splitter.bound(self._order(used))
            if limit > 0:
                self.bounds[used] = limit
        while True:
            chosen = self._pack()
            open_ones = {used for used in chosen if used not in self.pipelines}
            if not open_ones:
                return chosen
            for used in open_ones:
                self._solve(used)

    def _order(self, used: Used) -> tuple[InstanceType, ...]:
        return tuple(k for k, n in zip(self._kinds, used, strict=True) for _ in range(n))

    def _solve(self, used: Used) -> None:
        """Find the best pipeline of exactly these machines, and a bound on all of them."""
        best: Pipeline | None = None
        bound = 0.0
        for chain in _ends(self._kinds, used):
            floor = best.requests_per_s if best else 0.0
            layers, limit = self._splitter.best(chain, floor=floor)
            bound = max(bound, limit)
            if layers is not None:
                stages = tuple(Stage(*pair) for pair in zip(chain, layers, strict=True))
                best = Pipeline(stages, self._estimator.estimate(stages).requests_per_s)
        if best is None:
            del self.bounds[used]
        else:
            self.pipelines[used] = best
            self.bounds[used] = max(bound, best.requests_per_s)

    def _pack(self) -> list[Used]:
        """The multisets whose bounds add up to the most within the stock and the budget."""
        if not self.bounds:
            return []
        keys = list(self.bounds)
        rows = np.array(keys, dtype=float).T
        limits = np.array(self._counts, dtype=float)
        if np.isfinite(self._budget):
            rows = np.vstack([rows, self._prices @ rows])
            limits = np.append(limits, self._budget * (1 + _SLACK))
        result = milp(
            -np.array([self.bounds[key] for key in keys]),
            constraints=LinearConstraint(rows, ub=limits),
            integrality=np.ones(len(keys)),
            bounds=Bounds(0, np.inf),
            options={"mip_rel_gap": 0.0},
        )
        times = np.rint(result.x).astype(int)
        return [key for key, n in zip(keys, times, strict=True) for _ in range(n)]


def _multisets(counts: Used, max_stages: int) -> Iterator[Used]:
    for used in product(*(range(count + 1) for count in counts)):
        if 0 < sum(used) <= max_stages:
            yield used


def _ends(kinds: list[InstanceType], used: Used) -> Iterator[tuple[InstanceType, ...]]:
    """One order of the machines for each choice of the first and the last of them."""
    for first, last in product(range(len(kinds)), repeat=2):
        inner = list(used)
        inner[first] -= 1
        if sum(used) > 1:
            inner[last] -= 1
        elif first != last:
            continue
        if min(inner) < 0:
            continue
        middle = [kind for kind, n in zip(kinds, inner, strict=True) for _ in range(n)]
        if sum(used) == 1:
            yield (kinds[first],)
        else:
            yield (kinds[first], *middle, kinds[last])
