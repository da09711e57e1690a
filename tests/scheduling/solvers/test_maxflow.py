"""The solver of overlapping ranges: its flow, its bound, its pipelines and what is told of it."""

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from scheduling.command import main
from scheduling.errors import TooLarge
from scheduling.flow_cluster import flow_cluster, groups_of_degree, kv_room
from scheduling.goal import Goal
from scheduling.helix.cover import covering_placement
from scheduling.helix.flow import IDLE, Flow, check_ranges, max_flow, rate_bound
from scheduling.helix.paths import disjoint_paths, widest_path
from scheduling.inventory import Inventory
from scheduling.objective import Objective
from scheduling.overlapping import Overlapping
from scheduling.placement import Placement
from scheduling.plan import Plan
from scheduling.plan_file import BESIDE
from scheduling.planner import merged, plan
from scheduling.solvers import exhaustive, maxflow
from scheduling.solvers.interface import Problem, Solution
from tests.scheduling.solvers.clusters import (
    LIMITS,
    CountingClock,
    counted,
    last_of,
    random_problem,
)
from tests.scheduling.test_helix_flow import random_cluster
from tests.scheduling.test_plan_command import CLUSTER

SEEDS = (2, 7, 12, 15)


def overlapping_of(problem: Problem) -> tuple[Solution, Overlapping]:
    found = last_of(maxflow.solve, problem, 0.06)
    assert found is not None
    assert found.overlapping is not None
    return found, found.overlapping


@pytest.mark.parametrize("seed", SEEDS)
def test_the_overlapping_placement_is_one_and_carries_what_is_said(seed: int) -> None:
    problem = random_problem(seed)
    objective = Objective.of(problem)
    found, over = overlapping_of(problem)
    cluster = flow_cluster(objective, over.groups)
    check_ranges(cluster, over.ranges)
    assert max_flow(cluster, over.ranges).tokens_per_s == pytest.approx(over.tokens_per_s)
    assert over.tokens_per_s <= over.bound * (1 + 1e-9)
    assert found.score <= over.bound * (1 + 1e-9)
    assert found.bound <= over.bound * (1 + 1e-9)
    for group, held, room in zip(over.groups, over.ranges, over.kv_tokens, strict=True):
        assert room == kv_room(objective, group, held)
        assert (room > 0) == (held[0] < held[1])


@pytest.mark.parametrize("seed", range(40, 56))
def test_pipelines_are_a_flow_so_that_what_bounds_flows_bounds_them(seed: int) -> None:
    problem = random_problem(seed)
    best = last_of(exhaustive.solve, problem, 1e6)
    if best is None:
        return
    objective = Objective.of(problem)
    groups = groups_of_degree(Inventory(objective), 1)
    cluster = flow_cluster(objective, groups)
    held = {s.group: (s.start, s.end) for p in best.placement.pipelines for s in p.stages}
    ranges = tuple(held.get(group, IDLE) for group in groups)
    flow = max_flow(cluster, ranges).tokens_per_s
    assert best.score <= flow * (1 + 1e-6)
    assert flow <= rate_bound(cluster) * (1 + 1e-9)


def test_routes_pass_every_layer_once_and_only_where_it_is_held() -> None:
    problem = random_problem(7)
    _, over = overlapping_of(problem)
    routes = over.routes(num_tokens=100)
    assert routes
    for route in routes:
        assert (route[0].start, route[-1].end) == (0, problem.shape.num_layers)
        assert all(one.end == other.start for one, other in pairwise(route))
        for hop in route:
            start, end = over.ranges[hop.node]
            assert start <= hop.start < hop.end <= end
    assert over.routes(num_tokens=10**9) == ()


def test_paths_share_no_node_and_the_widest_comes_first() -> None:
    for seed in range(6):
        cluster = random_cluster(seed, num_nodes=5, num_layers=5)
        ranges = covering_placement(cluster)
        flow = max_flow(cluster, ranges)
        paths = list(disjoint_paths(cluster, ranges, flow))
        nodes = [node for _, path in paths for node in path]
        assert len(nodes) == len(set(nodes))
        assert bool(paths) == (flow.tokens_per_s > 0)
        if paths:
            assert paths[0] == widest_path(flow.links)
            assert 0 < paths[0][0] <= flow.tokens_per_s * (1 + 1e-9)


def test_the_widest_of_two_paths_is_found_behind_a_narrow_link() -> None:
    links = {(None, 0): 5.0, (0, 1): 1.0, (1, None): 9.0, (0, 2): 4.0, (2, 1): 4.0}
    assert widest_path(links) == (4.0, (0, 2, 1))
    assert widest_path({(None, 0): 1.0}) == (0.0, ())


def test_a_cover_leaves_no_layer_out_where_memory_allows() -> None:
    cluster = random_cluster(3, num_nodes=6, num_layers=6)
    ranges = covering_placement(cluster)
    check_ranges(cluster, ranges)
    held = {layer for start, end in ranges for layer in range(start, end)}
    room = sum(cluster.max_layers(node) for node in range(6))
    assert len(held) == 6 or room < 6


def test_wide_groups_share_no_device() -> None:
    problem = random_problem(7)
    nodes = tuple(replace(node, devices=node.devices * 3) for node in problem.cluster.nodes)
    wide = replace(
        problem,
        cluster=replace(problem.cluster, nodes=nodes),
        limits=replace(LIMITS, max_tp=2),
    )
    groups = groups_of_degree(Inventory(Objective.of(wide)), 2)
    devices = [(group.node, index) for group in groups for index in group.devices]
    assert sorted(devices) == [
        (n.id, i) for n in sorted(nodes, key=lambda n: n.id) for i in (0, 1, 2)
    ]
    assert {len(group.devices) for group in groups} == {1, 2}


def test_nothing_is_placed_on_nodes_that_the_budget_does_not_buy() -> None:
    problem = random_problem(15)
    prices = {node.id: problem.cluster.price_per_hour(node) for node in problem.cluster.nodes}
    budget = sum(prices.values()) * 0.7
    found, over = overlapping_of(replace(problem, goal=Goal(budget_per_hour=budget)))
    assert sum(prices[name] for name in found.placement.nodes) <= budget
    assert sum(prices[name] for name in {group.node for group in over.groups}) <= budget


def test_too_many_groups_are_refused_with_what_does() -> None:
    problem = random_problem(3)
    node = problem.cluster.nodes[0]
    nodes = tuple(replace(node, id=f"m{i}") for i in range(maxflow.MAX_GROUPS + 1))
    large = replace(problem, cluster=replace(problem.cluster, nodes=nodes, links=()))
    with pytest.raises(TooLarge, match="at most 128 groups of devices, got 129; use --solver auto"):
        list(maxflow.solve(large, budget=counted(1e6)))


def test_a_start_is_walked_on_from() -> None:
    problem = random_problem(7)
    best = last_of(exhaustive.solve, problem, 1e6)
    assert best is not None
    outcome = plan(problem, budget=counted(0.01), solver="maxflow", start=best.placement)
    assert outcome.solution.score == pytest.approx(best.score)


def test_merging_keeps_the_flow_that_carries_most() -> None:
    flow = Flow(tokens_per_s=8.0, links={})
    wide = Overlapping(groups=(), ranges=(), flow=flow, bound=9.0, kv_tokens=())
    narrow = replace(wide, flow=replace(wide.flow, tokens_per_s=wide.tokens_per_s / 2))
    one = Solution(placement=Placement(()), score=2.0, overlapping=narrow)
    assert merged(one, Solution(placement=Placement(()), score=3.0)).overlapping is narrow
    better = merged(one, replace(one, score=1.0, overlapping=wide))
    assert (better.score, better.overlapping) == (2.0, wide)
    assert merged(better, one) is better


def test_the_placement_and_its_routes_are_told_and_left_unread_by_who_serves(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster, path = tmp_path / "cluster.toml", tmp_path / "plan.json"
    cluster.write_text(CLUSTER)
    typed = [str(cluster), "--solver", "maxflow", "--time", "2", "--json", str(path)]
    assert main(typed, clock=CountingClock(0.05)) == 0
    out = capsys.readouterr().out
    assert "overlapping ranges (not served): a flow of" in out
    assert "request 0: " in out
    data = json.loads(path.read_text())
    over = data["overlapping"]
    assert over["loss"] == pytest.approx(1 - over["pipelines_tokens_per_s"] / over["tokens_per_s"])
    assert over["routes"][0][0]["start"] == 0
    assert over["routes"][0][-1]["end"] == 32
    assert Plan.from_dict({key: value for key, value in data.items() if key not in BESIDE})
    assert main(["explain", str(path), str(path), str(cluster)], clock=CountingClock()) == 0
