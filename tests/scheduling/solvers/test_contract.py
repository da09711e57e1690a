"""What every solver promises, held over all of them, with the exhaustive one as the oracle."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduling.errors import TooLarge
from scheduling.goal import Goal, Limits
from scheduling.objective import Objective
from scheduling.placement import check_placement
from scheduling.planner import SOLVERS
from scheduling.solvers import exhaustive, milp
from scheduling.solvers.bound import Bound
from scheduling.solvers.interface import Problem, Solver
from scheduling.solvers.row_searches import RowSearches
from tests.scheduling.solvers.clusters import LIMITS, counted, last_of, random_problem
from tests.scheduling.solvers.offline import HEURISTICS, fault
from tests.scheduling.solvers.varied import varied_problem

ALL = pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)
BLOCKS = [range(start, start + 17) for start in range(0, 204, 17)]
"""Every sort of problem 17 times; `python -m tests.scheduling.solvers.offline` tries more."""
FEW_S = 0.03
"""Counted seconds: each look at the clock is a thousandth."""


def few_s(solver: Solver) -> float:
    """HiGHS counts real seconds, of which a busy machine may give it too few."""
    return 1e6 if solver is milp.solve else FEW_S


def best(problem: Problem) -> float:
    found = last_of(exhaustive.solve, problem, 1e6)
    return 0.0 if found is None else found.score


@pytest.mark.parametrize("seeds", BLOCKS, ids=str)
def test_solvers_come_near_trying_all_and_exact_ones_equal_it(seeds: range) -> None:
    num_solved = 0
    for seed in seeds:
        sort, problem = varied_problem(seed, max_devices=4 if seed % 5 == 0 else 3)
        expected = last_of(exhaustive.solve, problem, 1e6)
        num_solved += expected is not None
        for name in (*HEURISTICS, "milp"):
            said = fault(problem, name, expected)
            assert not said, f"seed {seed} ({sort}), {name}: {said}"
    assert num_solved > len(seeds) / 2


@pytest.mark.parametrize("seeds", [range(0, 20)], ids=str)
def test_the_bound_is_never_below_the_best(seeds: range) -> None:
    for seed in seeds:
        problem = random_problem(seed)
        values = list(Bound(Objective.of(problem)).tighten(counted(1.0)))
        assert values == sorted(values, reverse=True)
        assert best(problem) <= min(values, default=0.0) * (1 + 1e-9), f"seed {seed}"


@ALL
def test_every_solution_is_feasible_better_and_below_its_bound(solver: Solver) -> None:
    problem = random_problem(7)
    objective, before = Objective(problem), None
    for solution in solver(problem, budget=counted(few_s(solver)), seed=3):
        check_placement(solution.placement, problem.cluster, problem.shape.num_layers)
        assert solution.score == pytest.approx(objective.score(solution.placement))
        assert solution.score <= solution.bound * (1 + 1e-9)
        if before is not None:
            is_wider = solution.overlapping is not before.overlapping
            assert solution.score > before.score or solution.bound < before.bound or is_wider
        before = solution
    assert before is not None


@ALL
def test_the_same_seed_gives_the_same_solutions(solver: Solver) -> None:
    runs = [
        [
            (s.placement, s.score)
            for s in solver(random_problem(7), budget=counted(few_s(solver)), seed=5)
        ]
        for _ in range(2)
    ]
    assert runs[0] == runs[1]
    assert runs[0]


@ALL
def test_a_spent_budget_ends_the_search(solver: Solver) -> None:
    budget = counted(0.0)
    found = list(solver(random_problem(12), budget=budget, seed=0))
    assert len(found) <= 4  # a first plan is allowed, a search is not
    assert budget.spent_s < 0.2


@ALL
def test_the_budget_of_money_is_kept(solver: Solver) -> None:
    problem = random_problem(15)
    whole = last_of(solver, problem, few_s(solver))
    assert whole is not None
    price = Objective(problem).evaluate(whole.placement).price_per_hour
    cheaper = replace(problem, goal=Goal(budget_per_hour=price * 0.7))
    found = last_of(solver, cheaper, few_s(solver))
    assert found is not None
    assert Objective(cheaper).evaluate(found.placement).price_per_hour <= price * 0.7
    assert 0 < found.score < whole.score


@pytest.mark.parametrize("name", ["dp", "milp", "tabu"])
def test_a_demand_that_nothing_meets_is_served_as_far_as_can_be(name: str) -> None:
    for seed in (20, 21, 23):
        problem = random_problem(seed, goal=Goal(measure="cost"))
        problem = replace(problem, workload=replace(problem.workload, rate=1e6))
        expected = last_of(exhaustive.solve, problem, 1e6)
        assert expected is not None
        assert -1 < expected.score < 0
        assert not fault(problem, name, expected), f"seed {seed}"


@pytest.mark.parametrize("seed", [512, 517], ids=["a line of 0.3 MB/s", "alike but for the price"])
def test_what_dp_once_missed_is_found(seed: int) -> None:
    sort, problem = varied_problem(seed)
    assert sort in ("slow line", "money")
    expected = last_of(exhaustive.solve, problem, 1e6)
    assert expected is not None
    assert not fault(problem, "dp", expected)
    assert min(Bound(Objective.of(problem)).tighten(counted(1.0))) >= expected.score * (1 - 1e-9)


def test_devices_that_cost_nothing_still_make_rows() -> None:
    search = RowSearches.of(Objective.of(random_problem(7))).by_phase["both"]
    rows = search.search(np.zeros(len(search.classes)))
    assert rows
    assert all(row.value > 0 and np.isfinite(row.ratio) for row in rows)


def test_trying_all_refuses_what_is_too_large() -> None:
    problem = random_problem(3)
    nodes = tuple(replace(problem.cluster.nodes[0], id=f"m{i}") for i in range(12))
    large = replace(problem, cluster=replace(problem.cluster, nodes=nodes, links=()))
    with pytest.raises(TooLarge, match="12 devices give more than"):
        list(exhaustive.solve(large, budget=counted(1e6)))


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(1000, 100_000), tp=st.sampled_from([1, 2]))
def test_any_small_problem_gives_a_sound_plan_or_none(seed: int, tp: int) -> None:
    problem = replace(random_problem(seed, max_devices=3), limits=replace(LIMITS, max_tp=tp))
    found = last_of(SOLVERS["dp"], problem, 0.01)
    if found is None:
        assert best(problem) == 0.0
    else:
        check_placement(found.placement, problem.cluster, problem.shape.num_layers)
        assert found.score <= best(problem) * (1 + 1e-9)


def test_limits_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match="max_tp of 1 or more"):
        Limits(max_tp=0)
