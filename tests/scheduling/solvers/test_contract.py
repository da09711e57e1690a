"""What every solver promises, held over all of them, with the exhaustive one as the oracle."""

from dataclasses import replace

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
from tests.scheduling.solvers.clusters import LIMITS, counted, last_of, random_problem

ALL = pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)
HEURISTIC = pytest.mark.parametrize("name", ["dp", "tabu"])
EXACT_BLOCKS = [range(start, start + 50) for start in range(0, 200, 50)]
FEW_S = 0.03
"""Counted seconds: each look at the clock is a thousandth."""


def best(problem: Problem) -> float:
    found = last_of(exhaustive.solve, problem, 1e6)
    return 0.0 if found is None else found.score


@pytest.mark.parametrize("seeds", EXACT_BLOCKS, ids=str)
def test_the_integer_program_equals_trying_all_on_small_clusters(seeds: range) -> None:
    num_solved = 0
    for seed in seeds:
        problem = random_problem(seed)
        expected, found = best(problem), last_of(milp.solve, problem, 1e6)
        if found is None:
            assert expected == 0.0, f"seed {seed}"
            continue
        num_solved += 1
        assert found.score == pytest.approx(expected, rel=1e-6), f"seed {seed}"
        assert found.bound == pytest.approx(expected, rel=1e-6), f"seed {seed}"
    assert num_solved > len(seeds) / 2


@pytest.mark.parametrize("seeds", [range(200, 220), range(240, 260)], ids=str)
@HEURISTIC
def test_heuristics_come_within_five_percent_of_the_best(name: str, seeds: range) -> None:
    for seed in seeds:
        problem = random_problem(seed)
        expected, found = best(problem), last_of(SOLVERS[name], problem, FEW_S)
        assert (found is None) == (expected == 0.0), f"seed {seed}"
        if found is not None:
            assert 0.95 * expected <= found.score <= expected * (1 + 1e-9), f"seed {seed}"


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
    for solution in solver(problem, budget=counted(FEW_S), seed=3):
        check_placement(solution.placement, problem.cluster, problem.shape.num_layers)
        assert solution.score == pytest.approx(objective.score(solution.placement))
        assert solution.score <= solution.bound * (1 + 1e-9)
        if before is not None:
            assert solution.score > before.score or solution.bound < before.bound
        before = solution
    assert before is not None


@ALL
def test_the_same_seed_gives_the_same_solutions(solver: Solver) -> None:
    runs = [
        [(s.placement, s.score) for s in solver(random_problem(7), budget=counted(FEW_S), seed=5)]
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
    whole = last_of(solver, problem, FEW_S)
    assert whole is not None
    price = Objective(problem).evaluate(whole.placement).price_per_hour
    cheaper = replace(problem, goal=Goal(budget_per_hour=price * 0.7))
    found = last_of(solver, cheaper, FEW_S)
    assert found is not None
    assert Objective(cheaper).evaluate(found.placement).price_per_hour <= price * 0.7
    assert 0 < found.score < whole.score


@pytest.mark.parametrize("name", ["dp", "milp", "tabu"])
@pytest.mark.parametrize("rate", [None, 0.5, 1e6])
def test_tokens_a_dollar_come_near_the_best(name: str, rate: float | None) -> None:
    for seed in range(20, 26):
        problem = random_problem(seed, goal=Goal(measure="cost"))
        problem = replace(problem, workload=replace(problem.workload, rate=rate))
        expected = last_of(exhaustive.solve, problem, 1e6)
        found = last_of(SOLVERS[name], problem, 0.1)
        assert (found is None) == (expected is None), f"seed {seed}"
        if expected is not None and found is not None:
            short = 1e-6 if name == "milp" else 0.05
            assert found.score >= expected.score - short * abs(expected.score), f"seed {seed}"
            assert found.score <= expected.score + 1e-6 * abs(expected.score), f"seed {seed}"


@pytest.mark.parametrize("name", ["dp", "tabu"])
def test_phases_apart_are_found_where_they_are_better(name: str) -> None:
    limits = replace(LIMITS, disaggregate=True)
    for seed in (31, 32, 33):
        problem = replace(random_problem(seed, max_devices=3), limits=limits)
        expected, found = best(problem), last_of(SOLVERS[name], problem, 0.2)
        assert found is not None
        assert 0.95 * expected <= found.score <= expected * (1 + 1e-6), f"seed {seed}"


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
