"""What to rent, in words and for programs.

The one idea: a catalogue is read, solved under a budget of time and of money, and the last plan is
told with its proof: what is rented, which requests go where, how long it takes and how much less
any other plan could take.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scheduling.command_files import read_text
from scheduling.command_problem import named_model
from scheduling.errors import Infeasible, InvalidCluster
from scheduling.model_shape import ModelShape
from scheduling.rent_catalogue import Catalogue, parse_catalogue, rent_problem
from scheduling.solvers.interface import Budget
from scheduling.solvers.rent import rent
from scheduling.solvers.rent_problem import RentPlan, RentProblem


@dataclass(frozen=True, slots=True, kw_only=True)
class Rented:
    """What to rent: as text, as JSON would hold it, and as a number of devices of each kind.

    `catalogue` is what it was chosen from, and `shape` the model's, if one was given.
    """

    text: str
    document: dict[str, Any]
    num_devices: Mapping[str, int]
    catalogue: Catalogue
    shape: ModelShape | None


def rent_report(
    path: Path, *, dollars_per_hour: float, model: str | None, budget: Budget
) -> Rented:
    """The best choice from a catalogue.

    Args:
        path: the catalogue.
        dollars_per_hour: the most that all devices may cost.
        model: that replicas are estimated for, unless the catalogue has them.
        budget: of time; a first plan is found whatever it is.

    Raises:
        SchedulingError: the catalogue makes no sense, or nothing affordable serves all requests.
    """
    try:
        found = parse_catalogue(read_text(path))
    except InvalidCluster as error:
        raise InvalidCluster(f"{path}: {error}") from None
    shape = None if model is None else named_model(model)
    problem = rent_problem(found, shape, dollars_per_hour=dollars_per_hour)
    _check_affordable(problem)
    plan = list(rent(problem, budget=budget))[-1]
    document = _document(found, problem, plan)
    return Rented(
        text="\n".join(_lines(found, problem, plan)),
        document=document,
        num_devices=document["devices"],
        catalogue=found,
        shape=shape,
    )


def _check_affordable(problem: RentProblem) -> None:
    """Refuse a budget below the cheapest replica that is there, with the one that would do."""
    there = [
        problem.price(one)
        for one in problem.configurations
        if any(one.requests_per_s)
        and all(n <= have for n, have in zip(one.devices, problem.available, strict=True))
    ]
    if not there:
        raise Infeasible(
            f"rent: none of {len(problem.configurations)} replicas can be made of the devices that "
            f"are available, {problem.available}; offer more devices or larger ones"
        )
    if min(there) > problem.budget_per_hour:
        raise Infeasible(
            f"rent: the cheapest replica costs {min(there):.4g} $/h and the budget is "
            f"{problem.budget_per_hour:g} $/h; raise --budget to {min(there):.4g} or more"
        )


def _lines(found: Catalogue, problem: RentProblem, plan: RentPlan) -> Iterator[str]:
    total = sum(problem.demand)
    yield (
        f"{total:g} requests in {plan.makespan_s:.3f} s ({total / plan.makespan_s:.3f} requests/s) "
        f"for {plan.cost_per_hour:.2f} of {problem.budget_per_hour:g} $/h, at best "
        f"{plan.bound_s:.3f} s (gap {plan.gap:.3%})"
    )
    for offer, have, used in zip(
        found.offers, problem.available, _devices(problem, plan), strict=True
    ):
        yield f"  {offer.device:<12} {used:>4} of {have} devices"
    for one, count, shares in zip(problem.configurations, plan.replicas, plan.shares, strict=True):
        if count:
            parts = ", ".join(
                f"{share:.1%} of {each.prompt_tokens}:{each.output_tokens}"
                for each, share in zip(found.requests, shares, strict=True)
                if share > 0
            )
            yield f"{count} x {one.name}: {parts or 'nothing'}"


def _document(found: Catalogue, problem: RentProblem, plan: RentPlan) -> dict[str, Any]:
    used = _devices(problem, plan)
    return {
        "makespan_s": plan.makespan_s,
        "bound_s": plan.bound_s,
        "gap": plan.gap,
        "cost_per_hour": plan.cost_per_hour,
        "budget_per_hour": problem.budget_per_hour,
        "devices": {o.device: n for o, n in zip(found.offers, used, strict=True)},
        "replicas": [
            {"name": one.name, "count": count, "shares": list(shares)}
            for one, count, shares in zip(
                problem.configurations, plan.replicas, plan.shares, strict=True
            )
            if count
        ],
    }


def _devices(problem: RentProblem, plan: RentPlan) -> list[int]:
    return [
        sum(
            count * one.devices[kind]
            for one, count in zip(problem.configurations, plan.replicas, strict=True)
        )
        for kind in range(len(problem.prices))
    ]
