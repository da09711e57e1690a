"""The queueing computation keeps its books, and the comparisons of phases run on it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from examples.papers.phase_queue import PhaseQueue, Request, attainment, drawn_requests
from examples.papers.thunderserve import (
    APART,
    Effort,
    curves_of,
    machines,
    scaled_goal,
)
from examples.papers.thunderserve_plot import save_curves
from examples.papers.thunderserve_scenarios import (
    equal_pipelines,
    pool_of_32,
    replicas,
    requests_like,
    two_machines,
    with_phases,
)
from examples.papers.thunderserve_systems import attained_by, colocated, ours, parted, round_robin
from scheduling.objective import Objective
from scheduling.phases.bound import Phases
from scheduling.placement import check_placement

EFFORT = Effort(num_requests=120, seeds=(0,), scales=(2.0, 6.0))
TOGETHER: Phases = ("both", "both", "both")


def served(requests: list[Request], phases: Phases, ends: tuple[tuple[int, int], ...]) -> None:
    scenario = two_machines("code", "40 Gbps")
    placement = with_phases(replicas(scenario), phases)
    queue = PhaseQueue(scenario.problem(), placement)
    told = list(queue.run(requests, lambda number: ends[number % len(ends)]))
    assert told[-1] == len(requests)


@pytest.mark.parametrize(
    ("phases", "ends"), [(TOGETHER, ((0, 0), (1, 1), (2, 2))), (APART, ((0, 2), (1, 2)))]
)
def test_every_request_gets_all_its_tokens_in_order(
    phases: Phases, ends: tuple[tuple[int, int], ...]
) -> None:
    requests = drawn_requests(requests_like("code"), 60, rate=2.0, seed=0)
    served(requests, phases, ends)
    for request in requests:
        assert request.made == request.output
        assert request.arrived_s < request.first_s <= request.done_s
        assert (request.first_s == request.done_s) == (request.output == 1)


def test_a_request_alone_takes_what_the_forecast_says() -> None:
    scenario = two_machines("code", "40 Gbps")
    problem, placement = scenario.problem(), replicas(scenario)
    request = Request(2048, 50, 0.0)
    served([request], TOGETHER, ((0, 0),))
    row = Objective.of(problem).row(placement.pipelines[0].groups, "prefill")
    points = Objective.of(problem).forecaster.points(row, (60,))
    assert points is not None
    at = int(np.argmax(points.chunk))
    assert request.ttft_s == pytest.approx(points.through_s[at], rel=0.03)


def test_where_kv_memory_runs_out_the_youngest_gives_way_and_all_are_served() -> None:
    requests = [Request(1000, 300, 0.001 * number) for number in range(20)]
    served(requests, TOGETHER, ((0, 0),))
    assert all(request.made == 300 for request in requests)
    assert requests[0].done_s < requests[-1].done_s
    late = max(request.begun for request in requests)
    assert late > 1000  # computed again with tokens that it had already


def test_a_request_that_can_never_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="a request of 90000 tokens does not fit"):
        served([Request(80000, 10000, 0.0)], TOGETHER, ((0, 0),))


def test_the_estimate_is_near_what_queueing_gives() -> None:
    deployment = machines("code", "40 Gbps", 4, EFFORT)
    for phases, scale in ((TOGETHER, 4.0), (TOGETHER, 8.0), (APART, 8.0)):
        goal = scaled_goal(deployment, scale)
        chosen = parted(phases)(deployment, goal, 1.0)
        assert chosen.estimate is not None
        assert attained_by(deployment, goal, 1.0, chosen) == pytest.approx(chosen.estimate, abs=0.1)


def test_packed_kv_and_a_fast_line_bring_more_in_time_where_phases_are_apart() -> None:
    parts = []
    for line, bits in (("5 Gbps", 16), ("5 Gbps", 4), ("40 Gbps", 4)):
        deployment = machines("code", line, bits, EFFORT)
        goal = scaled_goal(deployment, 8.0)
        parts.append(attained_by(deployment, goal, 0.5, parted(APART)(deployment, goal, 0.5)))
    assert parts[0] < parts[1] < parts[2]


def test_round_robin_keeps_our_phases_and_deals_evenly() -> None:
    deployment = machines("code", "40 Gbps", 4, EFFORT)
    goal = scaled_goal(deployment, 2.0)
    mine, dealt = ours(deployment, goal, 1.5), round_robin(deployment, goal, 1.5)
    assert mine.phases == dealt.phases
    givers = {end[0] for end in dealt.ends}
    for giver in givers:
        shares = zip(dealt.ends, dealt.shares, strict=True)
        assert sum(share for end, share in shares if end[0] == giver) == pytest.approx(1.0)


def test_tight_latencies_are_kept_by_more_where_phases_are_chosen() -> None:
    deployment = machines("code", "40 Gbps", 4, EFFORT)
    goal = scaled_goal(deployment, 2.0)
    mine = attained_by(deployment, goal, 1.5, ours(deployment, goal, 1.5))
    assert mine > attained_by(deployment, goal, 1.5, colocated(deployment, goal, 1.5)) + 0.2


def test_curves_rise_with_what_is_allowed_and_are_drawn(tmp_path: Path) -> None:
    curves = list(curves_of(replace(EFFORT, num_requests=30), {"code": 1.0}))
    assert [curve.name for curve in curves] == ["whole prompts", "colocated", "round robin", "ours"]
    for curve in curves:
        assert curve.parts[0] <= curve.parts[1]
    with pytest.raises(ValueError, match=r"ends in .svg or .png, got 'curves.pdf'"):
        save_curves(curves, tmp_path / "curves.pdf")
    pytest.importorskip("matplotlib")
    save_curves(curves, tmp_path / "curves.svg")
    assert "<svg" in (tmp_path / "curves.svg").read_text(encoding="utf-8")


def test_scenarios_are_whole() -> None:
    scenario, placement = equal_pipelines("code", 3)
    check_placement(placement, scenario.cluster, 60)
    assert pool_of_32("code").cluster.num_devices == 32
    fast, slow = (
        two_machines("code", line).cluster.link("a40", "ti") for line in ("40 Gbps", "5 Gbps")
    )
    assert fast.bytes_per_s == 8 * slow.bytes_per_s
    scaled = two_machines("code", "40 Gbps", flops=0.8).cluster.kinds["A40"].rates
    usual = two_machines("code", "40 Gbps").cluster.kinds["A40"].rates
    assert scaled.flops_per_s == pytest.approx(0.8 * usual.flops_per_s)
    load = requests_like("conversation")
    assert max(p + o for p, o in zip(load.prompts, load.outputs, strict=True)) <= 8192


def test_in_time_means_both_latencies() -> None:
    early, slow, late = (
        Request(10, 3, 0.0, first_s=f, done_s=d) for f, d in ((1, 2), (1, 4), (3, 4))
    )
    assert attainment([early, slow, late], 2.0, 0.5) == pytest.approx(1 / 3)
