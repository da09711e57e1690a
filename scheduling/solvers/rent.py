"""What to rent, and which replicas to run on it, for the least time over a mix of requests.

The one idea: with the makespan fixed, choosing replicas and sharing out the requests is a linear
integer programme; so the makespan is searched by bisection. Each feasible answer is sharpened, by
the least makespan of its replicas, and each infeasible one raises the bound, so the answer comes
with a proof of how good it is.

    min T   s.t.   sum_c x_cw = 1,   sum_w x_cw f_w / h_cw <= T y_c,   x_cw <= y_c,
                   sum_c price_c y_c <= budget,   sum_c devices_nc y_c <= available_n,   y integer

Source: Jiang et al., Demystifying Cost-Efficiency in LLM Serving over Heterogeneous GPUs,
ICML 2025 (arXiv 2502.00722), sections 4.2 and 4.3. It comes as the solvers of
`scheduling.solvers.interface` do, ever better under a budget of time, but it chooses the machines,
so it works on offers and not on a cluster.
"""

from collections.abc import Iterator
from dataclasses import replace

from scheduling.errors import Infeasible, InvalidPlan
from scheduling.solvers.interface import Budget
from scheduling.solvers.rent_problem import RentPlan, RentProblem
from scheduling.solvers.rent_programme import Programme


def rent(
    problem: RentProblem,
    *,
    budget: Budget | None = None,
    start: RentPlan | None = None,
    tolerance: float = 1e-5,
) -> Iterator[RentPlan]:
    """Yield plans that take less and less; the last may be the one before with a better bound.

    Args:
        problem: offers and demand.
        budget: looked at between two programmes, and given to each; no end when None.
        start: a plan to begin from, if it is better than the first that is found.
        tolerance: gap at which to stop; the integer programme's own is about 1e-6.

    Raises:
        Infeasible: no affordable choice of replicas serves all types of request.
        InvalidPlan: `start` rents more than there is, or than the budget buys.
    """
    if not problem.configurations or not any(problem.demand):
        raise Infeasible(
            f"rent: expected replicas to choose from and requests to serve, got "
            f"{len(problem.configurations)} configurations and a demand of {problem.demand}"
        )
    programme = Programme(problem)
    low = programme.relaxed_makespan_s()
    if start is not None:
        _check_start(problem, start)
    longest_s = programme.longest_s()  # 0 where no replica serves anything
    plan = programme.at_most(longest_s, None)[0] if longest_s > 0 else None
    if plan is None:
        raise Infeasible(
            f"rent: expected replicas for all {len(problem.demand)} types of request within "
            f"{problem.budget_per_hour} $/h, got none; raise the budget or add offers"
        )
    if start is not None and start.makespan_s < plan.makespan_s:
        plan = start
    yield _bounded(plan, low)
    last_low = low
    while plan.makespan_s - low > tolerance * plan.makespan_s:
        if budget is not None and budget.is_spent:
            break
        found, is_proven = programme.at_most((low + plan.makespan_s) / 2, budget)
        if found is not None and found.makespan_s >= plan.makespan_s:
            break  # the programme's own tolerance is reached: no nearer to the bound by it
        if found is not None:
            plan = found
            yield _bounded(plan, low)
            last_low = low
        elif is_proven:
            low = (low + plan.makespan_s) / 2
        else:
            break
    if low > last_low:
        yield _bounded(plan, low)


def _bounded(plan: RentPlan, bound_s: float) -> RentPlan:
    return replace(plan, bound_s=min(bound_s, plan.makespan_s))


def _check_start(problem: RentProblem, start: RentPlan) -> None:
    counts = (len(start.replicas), len(start.shares))
    expected = len(problem.configurations)
    if counts != (expected, expected):
        raise InvalidPlan(f"start: expected {expected} replicas and rows of shares, got {counts}")
    pairs = list(zip(start.replicas, problem.configurations, strict=True))
    cost = sum(count * problem.price(configuration) for count, configuration in pairs)
    devices = [
        sum(count * configuration.devices[kind] for count, configuration in pairs)
        for kind in range(len(problem.prices))
    ]
    over = any(n > have for n, have in zip(devices, problem.available, strict=True))
    if over or cost > problem.budget_per_hour * (1 + 1e-9):
        raise InvalidPlan(
            f"start: expected at most {problem.available} devices and {problem.budget_per_hour} "
            f"$/h, got {tuple(devices)} and {cost} $/h"
        )
