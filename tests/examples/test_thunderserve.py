"""ThunderServe's set-ups run in the simulator, and what is read off their requests' times."""

import asyncio
from math import inf
from pathlib import Path

import numpy as np
import pytest

from examples.papers import thunderserve
from examples.papers.thunderserve_parts import APART
from examples.papers.thunderserve_runs import Run, Served, Setting, Then, served
from examples.papers.thunderserve_scenarios import (
    equal_pipelines,
    pool_of_32,
    replicas,
    requests_like,
    two_machines,
)
from examples.papers.thunderserve_systems import (
    Chosen,
    Deployment,
    Latencies,
    colocated,
    least_scale,
    ours,
    parted,
    round_robin,
)
from examples.papers.thunderserve_workers import working
from runtime.simulation.times import RequestTimes
from scheduling.goal import Goal
from scheduling.objective import Objective
from scheduling.phases.bound import Phases
from scheduling.placement import check_placement

CODE = Setting(kind="code")
TOGETHER: Phases = ("both", "both", "both")
ALONE = Latencies(ttft_s=1.0, tpot_s=0.1)


def times(ttft_s: float, tpot_s: float | None) -> RequestTimes:
    return RequestTimes(
        at_s=0.0, num_prompt=9, num_tokens=2, ttft_s=ttft_s, tpot_s=tpot_s, e2e_s=9.0, ended="stop"
    )


def with_times(*each: RequestTimes) -> Served:
    return Served(times=each, num_handed_off=0, num_stayed=0)


@pytest.mark.parametrize(("phases", "is_apart"), [(TOGETHER, False), (APART, True)])
def test_every_request_is_served_rightly_and_handed_off_where_phases_are_apart(
    phases: Phases, is_apart: bool
) -> None:
    found = served(Run(setting=CODE, phases=phases, kv="int4", rate=1.0, num_requests=10))
    assert [each.num_tokens for each in found.times] == [
        each.num_tokens
        for each in served(Run(setting=CODE, phases=TOGETHER, rate=1.0, num_requests=10)).times
    ]
    assert all(each.e2e_s is not None for each in found.times)
    assert (found.num_handed_off > 0) == is_apart
    assert found.tokens_per_s > 0


def test_equal_runs_give_equal_times_and_another_seed_other_ones() -> None:
    run = Run(setting=CODE, phases=APART, kv="int4", rate=2.0, num_requests=6)
    assert served(run) == served(run)
    other = Run(setting=CODE, phases=APART, kv="int4", rate=2.0, num_requests=6, seed=1)
    assert served(other) != served(run)


def test_a_request_alone_takes_what_the_forecast_says() -> None:
    scenario, placement = CODE.made()
    found = served(Run(setting=CODE, phases=TOGETHER, is_alone=True))
    assert len(found.times) == 3
    problem = scenario.problem()
    row = Objective.of(problem).row(placement.pipelines[0].groups, "prefill")
    points = Objective.of(problem).forecaster.points(row, (60,))
    assert points is not None
    tokens = found.times[0].num_prompt
    at = int(np.argmin(abs(points.chunk - tokens)))
    assert found.times[0].ttft_s == pytest.approx(points.through_s[at] * tokens / points.chunk[at],
                                                  rel=0.05)  # fmt: skip


def test_a_run_that_went_wrong_is_no_result(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runtime.simulation.simulation.is_right", lambda *args: False)
    with pytest.raises(RuntimeError, match="request 0 ended 'length', or wrong"):
        served(Run(setting=CODE, phases=TOGETHER, rate=1.0, num_requests=1))


def test_packed_kv_and_a_fast_line_bring_answers_sooner_where_phases_are_apart() -> None:
    found = []
    for line, kv in (("5 Gbps", "none"), ("5 Gbps", "int4"), ("40 Gbps", "int4")):
        deployment = Deployment(setting=Setting(kind="code", line=line), kv=kv, num_requests=20)  # type: ignore[arg-type]
        run = served(deployment.run(APART, 0.5))
        found.append(np.mean([each.tpot_s for each in run.times if each.tpot_s is not None]))
    assert found[0] > found[1] > found[2]


def test_together_nothing_goes_over_the_line_so_that_one_run_tells_of_all_of_them() -> None:
    fast, slow = (
        Deployment(setting=Setting(kind="code", line=line)) for line in ("40 Gbps", "5 Gbps")
    )
    assert fast.run(TOGETHER, 1.0) == slow.run(TOGETHER, 1.0)
    assert fast.run(APART, 1.0) != slow.run(APART, 1.0)


def test_round_robin_has_our_phases_and_deals_requests_in_turn() -> None:
    deployment, goal = Deployment(setting=CODE), Goal(measure="slo", ttft_s=2.0, tpot_s=0.1)
    mine, dealt = ours(deployment, goal, 0.75), round_robin(deployment, goal, 0.75)
    assert mine.run.phases == dealt.run.phases != TOGETHER
    assert (mine.run.routing, dealt.run.routing) == ("predicted", "round-robin")
    together = colocated(deployment, goal, 0.75)
    assert mine.estimate is not None
    assert together.estimate is not None
    assert mine.estimate >= together.estimate
    assert together.estimate == parted(TOGETHER)(deployment, goal, 0.75).estimate


def test_latencies_are_judged_after_the_run_in_multiples_of_a_request_alone() -> None:
    found = with_times(times(1.5, 0.1), times(0.5, 0.4), times(2.0, None))
    assert [ALONE.part(found, scale) for scale in (1.4, 1.5, 2.0, 4.0)] == [0, 1 / 3, 2 / 3, 1]
    many = with_times(*(times(float(number), 0.1) for number in range(1, 21)))
    assert ALONE.least_scale(many) == 18.0
    assert ALONE.part(many, 18.0) == 0.9


def test_what_a_system_needs_is_asked_with_what_it_decides_for_that() -> None:
    tight, loose = (Deployment(setting=CODE).run(phases, rate=1.0) for phases in (TOGETHER, APART))
    answers = {tight: with_times(times(3.0, None)), loose: with_times(times(2.5, None))}

    async def serve(run: Run) -> Served:
        return answers[run]

    def chooses(_: Deployment, goal: Goal, rate: float) -> Chosen:
        assert goal.ttft_s is not None
        return Chosen(run=tight if goal.ttft_s < 2.8 else loose)

    def needed(*scales: float) -> float:
        asked = least_scale(Deployment(setting=CODE), chooses, 1.0, scales, ALONE, serve)
        return asyncio.run(asked)

    assert needed(1.0, 2.8) == 2.8  # by the time 3.0 would be allowed, it decides otherwise
    assert needed(1.0, 4.0) == 3.0
    assert needed(2.0) == 3.0
    answers[tight] = with_times(times(inf, None))
    assert needed(1.0, 2.0) == inf


def test_a_run_is_done_once_by_a_process_and_answered_as_it_would_be_here() -> None:
    run = Run(setting=CODE, phases=APART, kv="int4", rate=1.0, num_requests=4)
    ended: list[None] = []

    async def main() -> list[Served]:
        async with working(1, lambda: ended.append(None)) as workers, asyncio.TaskGroup() as tasks:
            asked = [tasks.create_task(workers.serve(run)) for _ in range(2)]
        return [task.result() for task in asked]

    assert asyncio.run(main()) == [served(run)] * 2
    assert len(ended) == 1


def test_a_process_that_fails_fails_the_run_and_says_so(capfd: pytest.CaptureFixture[str]) -> None:
    run = Run(setting=Setting(kind="poetry"), phases=APART, rate=1.0, num_requests=1)

    async def main() -> None:
        async with working(1, lambda: None) as workers:
            await workers.serve(run)

    with pytest.raises(RuntimeError, match=r"process \d+ ended at Run"):
        asyncio.run(main())
    assert "got 'poetry'" in capfd.readouterr().err


def test_a_load_that_changes_is_followed_by_phases_or_not() -> None:
    then = Then(kind="code", rate=2.0)
    run = Run(setting=CODE, phases=APART, kv="int4", rate=1.0, num_requests=8, then=then)
    found = served(run)
    assert not [flip for flip in found.flips if "ready serves" in flip.told]
    assert found.up_s > 0
    halves = np.diff([each.at_s for each in found.times])
    assert np.mean(halves[:3]) != pytest.approx(np.mean(halves[4:]))


@pytest.mark.long
def test_a_quick_look_has_all_comparisons_and_draws_the_curves(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    pytest.importorskip("matplotlib")
    plot = tmp_path / "curves.svg"
    thunderserve.main(["--quick", "--jobs", "2", "--plot", str(plot)])
    out, _ = capsys.readouterr()
    for kind in ("conversation", "code"):
        assert f"{kind} on 4 A40 and 4 3090Ti" in out
        assert f"best split of {kind} at" in out
        assert f"{kind}, constants a fifth up and down" in out
    for line in ("40 Gbps", "5 Gbps"):
        assert f"apart, {line}, none" in out
        assert f"apart, {line}, int4" in out
    for name in ("together", "colocated", "round robin", "ours", "choosing flips"):
        assert name in out
    assert "phases stay" in out
    assert "phases follow" in out
    assert "the planner's estimate is off by" in out
    assert "<svg" in plot.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--plot", "curves.pdf"], "ends in .svg or .png, got 'curves.pdf'"),
        (["--plot", "curves.svg", "--part", "split"], "draws the part curves, got split"),
        (["--jobs", "0"], "expected 1 or more, got 0"),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_runs(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        thunderserve.main(["--quick", *arguments])
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_scenarios_are_whole() -> None:
    scenario, placement = equal_pipelines("code", 3)
    check_placement(placement, scenario.cluster, 60)
    check_placement(replicas(), two_machines("code", "40 Gbps").cluster, 60)
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
