import math

import pytest

from scheduling.errors import Infeasible, InvalidPlan
from scheduling.hardware import CATALOGUE
from scheduling.shuntserve.catalogue import LLAMA_31_70B
from scheduling.solvers.rent_baselines import (
    best_rent,
    homogeneous,
    uniform_assignment,
    uniform_composition,
    uniform_deployment,
)
from scheduling.solvers.rent_problem import RentPlan
from scheduling.solvers.rent_rates import Offer, RequestType, replicas_of, saturated_rate
from tests.scheduling.test_rent import WORKED, check, random_problem

H100 = Offer(kind=CATALOGUE["H100"], link_bytes_per_s=300e9)
TALK = RequestType(prompt_tokens=800, output_tokens=250)


@pytest.mark.parametrize("seed", range(12))
def test_no_baseline_beats_the_free_choice(seed: int) -> None:
    problem = random_problem(seed)
    try:
        ours = best_rent(problem)
    except Infeasible:
        for baseline in (homogeneous, uniform_composition, uniform_deployment):
            with pytest.raises(Infeasible):
                baseline(problem)
        return
    assert uniform_assignment(problem, ours).makespan_s >= ours.makespan_s * (1 - 1e-9)
    for baseline in (homogeneous, uniform_composition, uniform_deployment):
        try:
            plan = baseline(problem)
        except Infeasible:
            continue
        check(problem, plan)
        assert plan.makespan_s >= ours.makespan_s * (1 - 2e-5)


def test_the_worked_example_loses_by_each_decision_taken_away() -> None:
    ours = best_rent(WORKED)
    assert homogeneous(WORKED).makespan_s > 30.0
    assert uniform_composition(WORKED).makespan_s > 30.0
    assert uniform_deployment(WORKED).makespan_s > 30.0
    assert uniform_assignment(WORKED, ours).makespan_s == pytest.approx(40 + 10 / 1.2)


def test_a_better_start_is_kept_and_a_wrong_one_refused() -> None:
    ours = best_rent(WORKED)
    assert best_rent(WORKED, start=ours).makespan_s == ours.makespan_s
    greedy = RentPlan(replicas=(2, 2, 2, 1), shares=ours.shares, makespan_s=1, cost_per_hour=1)
    with pytest.raises(InvalidPlan, match=r"got \(2, 4, 2\) and 20\.0"):
        best_rent(WORKED, start=greedy)
    short = RentPlan(replicas=(1,), shares=((1.0,),), makespan_s=1, cost_per_hour=1)
    with pytest.raises(InvalidPlan, match="expected 4 replicas"):
        best_rent(WORKED, start=short)


def test_replicas_that_cannot_hold_the_model_are_left_out() -> None:
    names = {c.name for c in replicas_of(LLAMA_31_70B, [H100], [TALK])}
    assert "H100 TP1 PP1" not in names
    assert "H100 TP2 PP1" in names
    assert "H100 TP16 PP1" not in names
    assert saturated_rate(LLAMA_31_70B, H100, TALK, 1, 1) == 0.0


def test_a_replica_of_more_devices_does_more_but_long_requests_cost_more() -> None:
    rates = [saturated_rate(LLAMA_31_70B, H100, TALK, degree, 1) for degree in (2, 4, 8)]
    assert rates == sorted(rates)
    long = RequestType(prompt_tokens=1600, output_tokens=500)
    assert saturated_rate(LLAMA_31_70B, H100, long, 4, 1) < rates[1]
    assert math.isfinite(rates[-1])
