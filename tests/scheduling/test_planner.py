from dataclasses import replace
from itertools import pairwise

import pytest

from scheduling.cluster import Cluster, Link, Node
from scheduling.errors import Infeasible
from scheduling.goal import Goal, Limits
from scheduling.model_profile import known_model
from scheduling.objective import Objective
from scheduling.placement import Group, Placement
from scheduling.planner import merged, plan
from scheduling.roofline import LinkRate
from scheduling.solvers import tabu
from scheduling.solvers.interface import Problem, Solution
from scheduling.workload import Workload, fixed
from tests.scheduling.solvers.clusters import LIMITS, counted, random_problem, small_shape


def problem_of(*kinds: str, **more: object) -> Problem:
    nodes = tuple(Node(id=f"n{i}", devices=(kind,)) for i, kind in enumerate(kinds))
    fields = {"shape": small_shape(), "workload": fixed(200, 100), "limits": LIMITS}
    return Problem(cluster=Cluster(nodes=nodes), **{**fields, **more})  # type: ignore[arg-type]


def test_a_small_cluster_is_proven_best() -> None:
    outcome = plan(problem_of("T4", "L4", "A10G"), budget=counted(1e6))
    assert outcome.solution.gap < 1e-6
    assert outcome.evaluation.score == pytest.approx(outcome.solution.score)


def test_the_chain_is_no_worse_than_any_of_its_solvers() -> None:
    problem = problem_of(*(["T4", "L4", "A10G", "4090"] * 2), shape=small_shape(20))
    scores = {
        solver: plan(problem, budget=counted(0.3), solver=solver).solution.score
        for solver in ("auto", "dp", "tabu")
    }
    assert scores["auto"] >= 0.99 * max(scores.values())


def test_progress_tells_of_ever_better_plans_or_bounds() -> None:
    told: list[tuple[float, float, float]] = []
    problem = problem_of(*(["T4", "L4"] * 4), shape=small_shape(20))
    plan(
        problem,
        budget=counted(0.3),
        on_progress=lambda s, spent: told.append((s.score, -s.bound, spent)),
    )
    assert told
    assert told == sorted(told, key=lambda t: t[2])
    for before, after in pairwise(told):
        assert after[:2] > before[:2]


def test_a_start_is_never_made_worse() -> None:
    problem = problem_of("T4", "T4", "L4", "L4", "A10G", "A10G", shape=small_shape(20))
    best = plan(problem, budget=counted(0.5)).solution
    again = plan(problem, budget=counted(0.001), start=best.placement)
    assert again.solution.score >= best.score


@pytest.mark.parametrize(
    ("problem", "message"),
    [
        (
            problem_of("T4", "4090", shape=known_model("llama-70b")),
            r"needs 141\.\d GB .*KV for one request of 1024 tokens.*2 devices have 40\.0 GB"
            r".*5 more 4090",
        ),
        (
            problem_of("A100-80G", shape=known_model("llama-70b")),
            r"It would fit with 1 more A100-80G or weights of 4 bits",
        ),
        (
            problem_of("H100", "H100", goal=Goal(budget_per_hour=0.01)),
            r"memory for the model costs at least 0\.\d+ \$/h .* budget is 0\.01 \$/h",
        ),
        (
            problem_of(*["T4"] * 8, shape=small_shape(2, intermediate=900_000)),
            r"one layer with the KV cache of one request needs 22\.\d GB, .* 14\.4 GB",
        ),
    ],
    ids=["memory", "a little short", "money", "one layer"],
)
def test_what_cannot_be_is_refused_with_numbers(problem: Problem, message: str) -> None:
    with pytest.raises(Infeasible, match=message):
        plan(problem, budget=counted())


def test_what_only_the_search_can_see_is_refused_too() -> None:
    # in all there is room, but not for whole layers on each device
    problem = problem_of("T4", "T4", shape=small_shape(3, intermediate=350_000))
    with pytest.raises(Infeasible, match="no row of devices holds it whole"):
        plan(problem, budget=counted())


def test_an_unknown_solver_is_refused() -> None:
    with pytest.raises(ValueError, match="auto or one of dp, milp"):
        plan(problem_of("T4"), budget=counted(), solver="magic")


def test_merging_keeps_the_better_plan_and_the_lower_bound() -> None:
    one = Solution(placement=Placement(()), score=3.0, bound=10.0)
    assert merged(None, one) is one
    assert merged(one, replace(one, score=2.0)) is one
    better = merged(one, replace(one, score=4.0, bound=20.0))
    assert (better.score, better.bound) == (4.0, 10.0)
    assert merged(one, replace(one, score=1.0, bound=5.0)).bound == 5.0


# --- the objective


def two_sites(bytes_per_s: float) -> Problem:
    rate = LinkRate(bytes_per_s=bytes_per_s, latency_s=1e-3)
    nodes = tuple(
        Node(id=f"{site}{i}", devices=("L4",), site=site) for site in "ab" for i in range(2)
    )
    cluster = Cluster(nodes=nodes, links=(Link(between=("a", "b"), rate=rate),))
    return Problem(cluster=cluster, shape=small_shape(30), workload=fixed(200, 100), limits=LIMITS)


def test_pipelines_across_a_line_share_it() -> None:
    def served(bytes_per_s: float, num: int) -> float:
        objective = Objective(two_sites(bytes_per_s))
        rows = [(Group(f"a{i}", (0,)), Group(f"b{i}", (0,))) for i in range(num)]
        pipelines = [objective.best_pipeline(row) for row in rows]
        return objective.evaluate(Placement(tuple(p for p in pipelines if p))).requests_per_s

    assert served(10e9, 2) == pytest.approx(2 * served(10e9, 1))
    assert served(1e6, 2) < 1.5 * served(1e6, 1)


def test_a_slow_link_is_named_as_the_bottleneck() -> None:
    objective = Objective(two_sites(1e6))
    row = objective.row((Group("a0", (0,)), Group("b0", (0,))))
    found = objective.forecaster.forecast(row)
    assert found is not None
    assert (found.bottleneck, found.slowest) == ("link", 0)


def test_spot_that_is_lost_often_is_worth_less_and_notice_makes_up_for_it() -> None:
    def score(**facts: float) -> float:
        node = Node(id="n", devices=("L4",), spot=True, **facts)  # type: ignore[arg-type]
        problem = replace(problem_of("L4"), cluster=Cluster(nodes=(node,)))
        return plan(problem, budget=counted()).solution.score

    assert score(interruptions_per_hour=10) < 0.9 * score()
    assert score(interruptions_per_hour=10, notice_s=120) == pytest.approx(score())


def test_tighter_latencies_serve_less_in_time() -> None:
    def score(tpot_s: float) -> float:
        goal = Goal(measure="slo", tpot_s=tpot_s, ttft_s=5.0)
        return plan(problem_of("L4", "A10G", goal=goal), budget=counted()).solution.score

    assert score(1.0) >= score(0.05) > score(0.02) > 0
    with pytest.raises(Infeasible, match=r"keeps a TTFT of 5 s and TPOT of 0\.001 s for any"):
        score(0.001)


def test_a_faster_device_and_a_larger_memory_never_serve_less() -> None:
    slow, fast = (plan(problem_of(k), budget=counted()) for k in ("T4", "A100-40G"))
    assert fast.solution.score > slow.solution.score


def test_tensor_parallel_stages_serve_what_single_devices_cannot_hold_in_a_layer() -> None:
    node = Node(id="n", devices=("T4",) * 4)
    shape = small_shape(2, intermediate=700_000)
    problem = replace(problem_of("T4"), cluster=Cluster(nodes=(node,)), shape=shape)
    with pytest.raises(Infeasible):
        plan(problem, budget=counted())
    wide = replace(problem, limits=replace(LIMITS, max_tp=2))
    found = plan(wide, budget=counted()).solution.placement
    assert {len(group.devices) for group in found.groups} == {2}


def test_flipping_phases_moves_no_weights() -> None:
    limits = replace(LIMITS, disaggregate=True)
    load = Workload(name="long prompts", prompts=(900,), outputs=(20,))
    problem = problem_of("A100-40G", "L4", "L4", "T4", limits=limits, workload=load)
    objective = Objective.of(problem)
    pipelines = [objective.best_pipeline((Group(f"n{i}", (0,)),), "decode") for i in range(4)]
    start = Placement(tuple(p for p in pipelines if p is not None))
    found = list(tabu.flip_phases(problem, start, budget=counted(0.5), seed=1))
    assert found
    assert found[-1].score > 0 == objective.score(start)
    assert [p.stages for p in found[-1].placement.pipelines] == [p.stages for p in start.pipelines]


def test_limits_of_a_random_problem_are_kept_by_forecasts() -> None:
    problem = random_problem(7)
    outcome = plan(problem, budget=counted(0.1))
    limits: Limits = problem.limits
    for forecast in outcome.evaluation.forecasts:
        assert forecast.num_sequences <= limits.max_running * (1 + 1e-6)
        assert forecast.kv_tokens >= min(limits.max_model_len, forecast.num_sequences)
        assert sum(forecast.layers) == problem.shape.num_layers
