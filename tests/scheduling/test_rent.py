from collections.abc import Callable
from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from scheduling.errors import Infeasible, InvalidCluster
from scheduling.solvers.interface import Budget
from scheduling.solvers.rent import rent
from scheduling.solvers.rent_problem import Configuration, RentPlan, RentProblem
from scheduling.solvers.rent_programme import Programme

WORKED = RentProblem(
    prices=(4.0, 2.0, 2.0),
    available=(2, 2, 2),
    demand=(80.0, 20.0),
    budget_per_hour=8.0,
    configurations=(
        Configuration(name="1 x t1", devices=(1, 0, 0), requests_per_s=(1.0, 1.2)),
        Configuration(name="1 x t2", devices=(0, 1, 0), requests_per_s=(0.9, 0.9)),
        Configuration(name="1 x t3", devices=(0, 0, 1), requests_per_s=(0.3, 0.5)),
        Configuration(name="2 x t2", devices=(0, 2, 0), requests_per_s=(2.4, 1.5)),
    ),
)


def random_problem(seed: int) -> RentProblem:
    rng = np.random.default_rng(seed)
    configurations = []
    for number in range(4):
        devices = tuple(int(n) for n in rng.integers(0, 3, size=2))
        rates = rng.uniform(0.2, 3.0, size=2) * (rng.random(2) < 0.85)
        if any(devices):
            configurations.append(
                Configuration(
                    name=str(number),
                    devices=devices,
                    requests_per_s=tuple(float(rate) for rate in rates),
                )
            )
    return RentProblem(
        prices=tuple(float(price) for price in rng.uniform(0.5, 3, size=2)),
        available=tuple(int(n) for n in rng.integers(1, 5, size=2)),
        demand=tuple(float(f) for f in rng.uniform(5, 50, size=2)),
        budget_per_hour=float(rng.uniform(3, 10)),
        configurations=tuple(configurations),
    )


def affordable(problem: RentProblem, replicas: tuple[int, ...]) -> bool:
    pairs = list(zip(replicas, problem.configurations, strict=True))
    return sum(n * problem.price(c) for n, c in pairs) <= problem.budget_per_hour and all(
        sum(n * c.devices[kind] for n, c in pairs) <= limit
        for kind, limit in enumerate(problem.available)
    )


def best_by_brute_force(problem: RentProblem) -> float:
    plans = [
        plan
        for replicas in product(range(5), repeat=len(problem.configurations))
        if affordable(problem, replicas)
        and (plan := Programme(problem).best_shares(np.array(replicas, dtype=float))) is not None
    ]
    return min((plan.makespan_s for plan in plans), default=float("inf"))


def check(problem: RentProblem, plan: RentPlan) -> None:
    assert affordable(problem, plan.replicas)
    np.testing.assert_allclose(np.sum(plan.shares, axis=0), 1.0, atol=1e-7)
    for configuration, count, shares in zip(
        problem.configurations, plan.replicas, plan.shares, strict=True
    ):
        busy_s = sum(
            share * requests / rate
            for share, requests, rate in zip(
                shares, problem.demand, configuration.requests_per_s, strict=True
            )
            if share > 0
        )
        assert busy_s <= count * plan.makespan_s * (1 + 1e-6) + 1e-9


def test_the_papers_worked_example_is_solved_better_than_in_the_paper() -> None:
    plan = list(rent(WORKED))[-1]
    assert plan.makespan_s == pytest.approx(28.431, abs=5e-4)
    assert plan.makespan_s < 28.67
    assert plan.replicas == (1, 0, 0, 1)
    assert plan.cost_per_hour == 8.0
    assert plan.gap <= 1e-5
    check(WORKED, plan)


@pytest.mark.parametrize("seed", range(25))
def test_the_bisection_finds_what_trying_all_replicas_finds(seed: int) -> None:
    problem = random_problem(seed)
    truth = best_by_brute_force(problem)
    if truth == float("inf"):
        with pytest.raises(Infeasible):
            list(rent(problem))
        return
    plans = list(rent(problem))
    assert plans[-1].makespan_s == pytest.approx(truth, rel=2e-5)
    assert plans[-1].bound_s <= truth * (1 + 1e-5)
    for plan in plans:
        check(problem, plan)


def test_plans_only_get_better() -> None:
    for seed in range(6):
        try:
            plans = list(rent(random_problem(seed)))
        except Infeasible:
            continue
        makespans = [plan.makespan_s for plan in plans]
        assert makespans == sorted(makespans, reverse=True)
        assert [plan.bound_s for plan in plans] == sorted(plan.bound_s for plan in plans)


def ticking() -> Callable[[], float]:
    now = [0.0]

    def clock() -> float:
        now[0] += 1.0
        return now[0]

    return clock


def test_a_spent_budget_ends_with_the_first_plan() -> None:
    plans = list(rent(WORKED, budget=Budget(seconds=0.5, clock=ticking())))
    assert len(plans) == 1
    assert plans[0].gap > 0
    check(WORKED, plans[0])


def test_types_without_demand_are_left_out() -> None:
    problem = RentProblem(
        prices=(1.0,),
        available=(1,),
        demand=(10.0, 0.0),
        budget_per_hour=1.0,
        configurations=(Configuration(name="a", devices=(1,), requests_per_s=(2.0, 0.0)),),
    )
    plan = list(rent(problem))[-1]
    assert plan.makespan_s == pytest.approx(5.0)
    assert plan.shares == ((1.0, 0.0),)


def test_a_budget_below_every_replica_is_refused() -> None:
    problem = RentProblem(
        prices=WORKED.prices,
        available=WORKED.available,
        demand=WORKED.demand,
        budget_per_hour=1.0,
        configurations=WORKED.configurations,
    )
    with pytest.raises(Infeasible, match="raise the budget"):
        list(rent(problem))


def test_records_that_do_not_match_are_refused() -> None:
    with pytest.raises(InvalidCluster, match="expected 1 availabilities"):
        RentProblem(
            prices=(1.0,), available=(), demand=(1.0,), budget_per_hour=1.0, configurations=()
        )
    with pytest.raises(InvalidCluster, match="'a': expected 1 types of device and 1 of request"):
        RentProblem(
            prices=(1.0,),
            available=(1,),
            demand=(1.0,),
            budget_per_hour=1.0,
            configurations=(Configuration(name="a", devices=(1, 2), requests_per_s=(1.0,)),),
        )


def test_nothing_to_choose_and_nothing_to_serve_are_refused() -> None:
    with pytest.raises(Infeasible, match="got 0 configurations"):
        list(rent(replace(WORKED, configurations=())))
    with pytest.raises(Infeasible, match="a demand of"):
        list(rent(replace(WORKED, demand=(0.0, 0.0))))
