"""Simpler ways to rent, to see what each decision is worth.

The one idea: take one of the three decisions away and solve the rest as before: which devices
(uniform composition), which replicas on them (uniform deployment), which requests go where
(uniform assignment). `homogeneous` rents one type alone.

Source: arXiv 2502.00722, section 5, ablations; restated here, for its exact rules are not public.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from scheduling.errors import Infeasible
from scheduling.solvers.interface import Budget
from scheduling.solvers.rent import rent
from scheduling.solvers.rent_problem import Configuration, RentPlan, RentProblem
from scheduling.solvers.rent_programme import Programme


def best_rent(
    problem: RentProblem, budget: Budget | None = None, *, start: RentPlan | None = None
) -> RentPlan:
    """The last plan that `rent` yields.

    Raises:
        Infeasible: there is none.
    """
    return list(rent(problem, budget=budget, start=start))[-1]


def uniform_composition(problem: RentProblem, budget: Budget | None = None) -> RentPlan:
    """As many devices of each type as the money buys of all alike, then the best use of them.

    Raises:
        Infeasible: these devices cannot hold the model or serve all requests.
    """
    most = max(problem.available)
    counts = [tuple(min(n, have) for have in problem.available) for n in range(most + 1)]
    within = [c for c in counts if np.dot(c, problem.prices) <= problem.budget_per_hour]
    return best_rent(replace(problem, available=within[-1]), budget)


def uniform_deployment(problem: RentProblem, budget: Budget | None = None) -> RentPlan:
    """Every replica of the same number of devices, whatever they are; the best such number.

    Raises:
        Infeasible: no single number serves all requests.
    """
    sizes = sorted({sum(c.devices) for c in problem.configurations})
    return _best_of(problem, [_with_size(size) for size in sizes], budget)


def homogeneous(problem: RentProblem, budget: Budget | None = None) -> RentPlan:
    """One type of device alone; the best of them.

    Raises:
        Infeasible: no single type serves all requests.
    """
    return _best_of(problem, [_only(kind) for kind in range(len(problem.prices))], budget)


def uniform_assignment(problem: RentProblem, plan: RentPlan) -> RentPlan:
    """The same replicas, with requests dealt out one by one to all that can serve them.

    Args:
        problem: that the plan is for.
        plan: whose replicas are kept.
    """
    can = np.array([c.requests_per_s for c in problem.configurations]) > 0
    held = np.array(plan.replicas, dtype=float)
    dealt = held[:, np.newaxis] * can
    kept = np.array(problem.demand) > 0
    shares = dealt[:, kept] / dealt[:, kept].sum(axis=0)
    return Programme(problem).plan(held, shares)


def _with_size(size: int) -> Callable[[Configuration], bool]:
    return lambda configuration: sum(configuration.devices) == size


def _only(kind: int) -> Callable[[Configuration], bool]:
    return lambda configuration: configuration.devices[kind] == sum(configuration.devices)


def _best_of(
    problem: RentProblem,
    choices: Sequence[Callable[[Configuration], bool]],
    budget: Budget | None,
) -> RentPlan:
    """The best plan of those that each choice of configurations allows.

    Its shares and replicas are in the order of the whole problem's configurations.
    """
    plans = []
    for choice in choices:
        indices = [i for i, c in enumerate(problem.configurations) if choice(c)]
        part = replace(problem, configurations=tuple(problem.configurations[i] for i in indices))
        try:
            plans.append((best_rent(part, budget), indices))
        except Infeasible:
            continue
    if not plans:
        raise Infeasible(
            f"rent: expected one of {len(choices)} uniform choices to serve all requests, none "
            "does; raise the budget or rent freely"
        )
    plan, indices = min(plans, key=lambda pair: pair[0].makespan_s)
    replicas = [0] * len(problem.configurations)
    shares = [(0.0,) * len(problem.demand)] * len(problem.configurations)
    for index, count, row in zip(indices, plan.replicas, plan.shares, strict=True):
        replicas[index], shares[index] = count, row
    return replace(plan, replicas=tuple(replicas), shares=tuple(shares))
