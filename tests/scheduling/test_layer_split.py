import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduling.layer_split import SplitProblem, best_split, cycle_s


def random_split(seed: int) -> SplitProblem:
    rng = np.random.default_rng(seed)
    stages, layers, points = int(rng.integers(1, 5)), int(rng.integers(4, 10)), 3
    return SplitProblem(
        layer_s=rng.uniform(0.1, 3.0, (stages, points)),
        fixed_s=rng.choice([0.0, 1.0], (stages, points)),
        max_layers=rng.integers(0, layers + 1, (stages, points)).astype(float),
        hops_s=rng.uniform(0.0, 5.0, points),
        busiest_link_s=rng.uniform(0.0, 2.0, points),
        in_flight=rng.integers(1, 2 * stages + 1, points).astype(float),
        num_layers=layers,
    )


def by_trying_all(problem: SplitProblem) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    stages, points = problem.layer_s.shape
    best = np.full(points, np.inf)
    for counts in itertools.product(range(1, problem.num_layers + 1), repeat=stages):
        if sum(counts) == problem.num_layers:
            column = np.asarray(counts, np.float64)[:, None]
            fits = (column <= problem.max_layers).all(axis=0)
            cycle = cycle_s(problem, np.broadcast_to(column, problem.layer_s.shape))
            best = np.minimum(best, np.where(fits, cycle, np.inf))
    return best


@settings(max_examples=300, deadline=None)
@given(seed=st.integers(0, 1 << 30))
def test_the_split_is_the_best_of_all_splits(seed: int) -> None:
    problem = random_split(seed)
    counts, cycle = best_split(problem)
    assert cycle == pytest.approx(by_trying_all(problem), rel=1e-6)
    fits = np.isfinite(cycle)
    assert (counts.sum(axis=0)[fits] == problem.num_layers).all()
    assert (counts <= problem.max_layers)[:, fits].all()


def test_a_faster_stage_gets_more_layers() -> None:
    problem = SplitProblem(
        layer_s=np.asarray([[1.0], [3.0]]),
        fixed_s=np.zeros((2, 1)),
        max_layers=np.full((2, 1), 8.0),
        hops_s=np.zeros(1),
        busiest_link_s=np.zeros(1),
        in_flight=np.full(1, 2.0),
        num_layers=8,
    )
    counts, cycle = best_split(problem)
    assert counts[:, 0].tolist() == [6, 2]
    assert cycle.tolist() == [12.0]
