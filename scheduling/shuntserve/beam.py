"""ShuntServe's placement: a dynamic programme that keeps the best few partial pipelines.

The one idea: grow pipelines stage by stage over (layers placed, machines used), keep `top_k` in
each state, take the best whole pipeline, remove its machines, and begin again. This is the
published method, for comparison; `scheduling.shuntserve.search` is at least as good and faster.

Source: ShuntServe, arXiv 2606.18600, placement.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from scheduling.errors import Infeasible
from scheduling.shuntserve.catalogue import InstanceType
from scheduling.shuntserve.estimator import Estimator, Stage

Used = tuple[int, ...]
"""How many machines of each type a pipeline has, in the order of the stock."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Preference:
    """What makes a pipeline good: throughput for its price, less a penalty for lateness.

    Attributes:
        spot: whether prices are those of the spot market.
        budget_per_hour: the most that all pipelines together may cost, in dollars.
        latency_slo_s: the latency from which the penalty grows, if there is one.
        lateness_penalty: what a latency of twice the SLO takes off, as a share.
    """

    spot: bool = True
    budget_per_hour: float = float("inf")
    latency_slo_s: float | None = None
    lateness_penalty: float = 0.0

    def price(self, instance: InstanceType) -> float:
        """Dollars per hour of one machine."""
        return instance.spot_per_hour if self.spot else instance.on_demand_per_hour

    def score(self, requests_per_s: float, latency_s: float, cost_per_hour: float) -> float:
        """Requests per second for a dollar per hour, after the penalty."""
        score = requests_per_s / cost_per_hour
        if self.latency_slo_s is None:
            return score
        late = max(0.0, latency_s - self.latency_slo_s) / self.latency_slo_s
        return score * (1 - self.lateness_penalty * late)


class Pipeline(NamedTuple):
    """A chosen pipeline and the throughput that is predicted for it."""

    stages: tuple[Stage, ...]
    requests_per_s: float


class _Partial(NamedTuple):
    score: float
    stages: tuple[Stage, ...]


_Beam = dict[Used, list[_Partial]]


def beam_placement(
    estimator: Estimator,
    stock: Mapping[InstanceType, int],
    *,
    top_k: int,
    preference: Preference | None = None,
) -> tuple[Pipeline, ...]:
    """Pipelines by the published greedy method, best first.

    Args:
        estimator: of the model.
        stock: machines there are, by type.
        top_k: partial pipelines kept in each state.
        preference: what to prefer, and the budget.

    Raises:
        Infeasible: no pipeline at all fits the stock.

    Complexity: layers² x states of the stock x types x `top_k` predictions for each pipeline.
    """
    preference = preference or Preference()
    left = dict(stock)
    budget = preference.budget_per_hour
    pipelines: list[Pipeline] = []
    while best := _best_pipeline(estimator, left, budget, top_k, preference):
        pipelines.append(best)
        for stage in best.stages:
            left[stage.instance] -= 1
            budget -= preference.price(stage.instance)
    if not pipelines:
        raise Infeasible(
            f"{estimator.shape.num_layers} layers: expected a pipeline from "
            f"{ {i.name: n for i, n in stock.items()} } within {preference.budget_per_hour} $/h, "
            "got none; add machines or raise the budget"
        )
    return tuple(pipelines)


def _best_pipeline(
    estimator: Estimator,
    stock: Mapping[InstanceType, int],
    budget: float,
    top_k: int,
    preference: Preference,
) -> Pipeline | None:
    num_layers = estimator.shape.num_layers
    kinds = [kind for kind, count in stock.items() if count]
    beams: list[_Beam] = [defaultdict(list) for _ in range(num_layers + 1)]
    beams[0][(0,) * len(kinds)] = [_Partial(0.0, ())]
    for placed in range(num_layers):
        for used, partials in list(beams[placed].items()):
            if sum(n * preference.price(k) for n, k in zip(used, kinds, strict=True)) > budget:
                continue
            for partial in partials:
                for index, stage in _next_stages(kinds, used, stock, num_layers - placed):
                    grown = (*used[:index], used[index] + 1, *used[index + 1 :])
                    reached = placed + stage.num_layers
                    found = _grow(estimator, partial, stage, reached == num_layers, preference)
                    cost = sum(n * preference.price(k) for n, k in zip(grown, kinds, strict=True))
                    if found is not None and cost <= budget:
                        _keep(beams[reached][grown], found, top_k)
    whole = [partial for kept in beams[num_layers].values() for partial in kept]
    if not whole:
        return None
    stages = max(whole, key=lambda partial: partial.score).stages
    return Pipeline(stages, estimator.estimate(stages).requests_per_s)


def _next_stages(
    kinds: list[InstanceType], used: Used, stock: Mapping[InstanceType, int], left: int
) -> Iterator[tuple[int, Stage]]:
    for index, kind in enumerate(kinds):
        if used[index] < stock[kind]:
            for count in range(1, left + 1):
                yield index, Stage(kind, count)


def _grow(
    estimator: Estimator, partial: _Partial, stage: Stage, complete: bool, preference: Preference
) -> _Partial | None:
    if estimator.max_sequences(stage, first=not partial.stages, last=complete) < 1:
        return None
    stages = (*partial.stages, stage)
    estimate = estimator.estimate(stages, complete=complete)
    cost = sum(preference.price(stage.instance) for stage in stages)
    return _Partial(preference.score(estimate.requests_per_s, estimate.latency_s, cost), stages)


def _keep(kept: list[_Partial], found: _Partial, top_k: int) -> None:
    kept.append(found)
    if len(kept) > top_k:
        kept.remove(min(kept, key=lambda partial: partial.score))
