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

from scheduling.errors import Infeasible
from scheduling.solvers.interface import Budget
from scheduling.solvers.rent_problem import RentPlan, RentProblem
from scheduling.solvers.rent_programme import Programme


def rent(
    problem: RentProblem, *, budget: Budget | None = None, tolerance: float = 1e-5
) -> Iterator[RentPlan]:
    """Yield plans that take less and less; the last may be the one before with a better bound.

    Args:
        problem: offers and demand.
        budget: looked at between two programmes, and given to each; no end when None.
        tolerance: gap at which to stop; the integer programme's own is about 1e-6.

    Raises:
        Infeasible: no affordable choice of replicas serves all types of request.
    """
    programme = Programme(problem)
    low = programme.relaxed_makespan_s()
    plan, _ = programme.at_most(programme.longest_s(), None)
    if plan is None:
        raise Infeasible(
            f"rent: expected replicas for all {len(problem.demand)} types of request within "
            f"{problem.budget_per_hour} $/h, got none; raise the budget or add offers"
        )
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
