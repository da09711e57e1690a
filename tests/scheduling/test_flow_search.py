from collections.abc import Callable

import pytest

from scheduling.errors import InvalidPlan
from scheduling.helix.flow import IDLE, FlowCluster, max_flow
from scheduling.solvers.flow_search import FlowSolution, search
from scheduling.solvers.interface import Budget
from tests.scheduling.helix_reference import helix_cluster, needs_helix
from tests.scheduling.test_helix_flow import all_placements, random_cluster


def ticking(step_s: float = 1.0) -> Callable[[], float]:
    """A clock that advances by a step each time it is read."""
    now = [0.0]

    def clock() -> float:
        now[0] += step_s
        return now[0]

    return clock


def solve(cluster: FlowCluster, *, tries: int, seed: int = 0) -> list[FlowSolution]:
    budget = Budget(seconds=1e9, clock=ticking())
    return list(search(cluster, budget=budget, seed=seed, max_tries=tries))


@pytest.mark.parametrize("seed", range(10))
def test_the_search_finds_the_best_of_all_small_placements(seed: int) -> None:
    cluster = random_cluster(seed)
    truth = max(max_flow(cluster, ranges).tokens_per_s for ranges in all_placements(cluster))
    found = solve(cluster, tries=2000)
    if truth == 0.0:
        assert not found
    else:
        assert found[-1].score == pytest.approx(truth, rel=1e-4)
        assert found[-1].score <= found[-1].bound * (1 + 1e-9)


def test_solutions_only_get_better_and_the_gap_closes() -> None:
    found = solve(random_cluster(2, num_nodes=5, num_layers=5), tries=1500)
    scores = [solution.score for solution in found]
    assert len(scores) > 1
    assert scores == sorted(set(scores))
    assert found[-1].gap < found[0].gap


def test_the_same_seed_finds_the_same_solutions() -> None:
    cluster = random_cluster(2, num_nodes=5, num_layers=5)
    first, second = (
        [solution.ranges for solution in solve(cluster, tries=500, seed=4)] for _ in range(2)
    )
    assert first == second


def test_a_spent_budget_ends_the_search_with_its_first_solution() -> None:
    cluster = random_cluster(2, num_nodes=5, num_layers=5)
    found = list(search(cluster, budget=Budget(seconds=0.5, clock=ticking())))
    assert len(found) <= 1


def test_a_better_start_is_kept() -> None:
    cluster = random_cluster(2, num_nodes=5, num_layers=5)
    good = solve(cluster, tries=1500)[-1]
    budget = Budget(seconds=0.5, clock=ticking())
    again = list(search(cluster, budget=budget, start=good.ranges))
    assert again[-1].score == pytest.approx(good.score)


def test_a_start_that_the_nodes_cannot_hold_is_refused() -> None:
    cluster = random_cluster(2)
    with pytest.raises(InvalidPlan):
        list(search(cluster, budget=Budget(seconds=1, clock=ticking()), start=[IDLE]))


def test_without_partial_inference_tokens_enter_at_the_first_layer() -> None:
    cluster = random_cluster(5, num_nodes=3)
    budget = Budget(seconds=1e9, clock=ticking())
    whole = list(search(cluster, budget=budget, partial=False, max_tries=2000))[-1]
    truth = max(
        max_flow(cluster, ranges, partial=False).tokens_per_s for ranges in all_placements(cluster)
    )
    assert whole.score == pytest.approx(truth, rel=1e-4)


@needs_helix
def test_the_distributed_cluster_is_placed_better_than_published() -> None:
    found = solve(helix_cluster(), tries=200)
    assert found[-1].score >= 1212.18
    assert 0 <= found[-1].gap < 0.2
