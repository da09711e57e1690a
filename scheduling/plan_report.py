"""A plan in words: what runs where, what it will do, and why it is no better.

Plain text in columns, so that two reports can be compared line by line. It only ever formats.
"""

import difflib
from collections.abc import Sequence
from itertools import groupby

from scheduling.cluster import Cluster
from scheduling.forecast import Forecast
from scheduling.objective import Evaluation
from scheduling.overlapping import lines_of
from scheduling.placement import PlacedPipeline, PlacedStage, Placement
from scheduling.planner import Outcome
from scheduling.solvers.interface import Problem, Solution

_UNITS = {"throughput": "tokens/s", "cost": "tokens/$", "slo": "tokens/s in time"}


def report(outcome: Outcome) -> str:
    """All that is worth knowing of a plan."""
    lines = [
        *summary(outcome.problem, outcome.evaluation),
        f"  {goal_line(outcome.problem, outcome.solution)}  after {outcome.spent_s:.1f} s",
        "",
        *pipelines(outcome.problem, outcome.solution.placement, outcome.evaluation),
    ]
    over, load = outcome.solution.overlapping, outcome.problem.workload
    if over is not None:
        tokens_per_s = outcome.evaluation.tokens_per_s
        lines += ["", *lines_of(over, tokens_per_s, round(load.mean_prompt + load.mean_output))]
    return "\n".join(lines)


def goal_line(problem: Problem, solution: Solution) -> str:
    """Score, bound and gap."""
    unit = _UNITS[problem.goal.measure]
    load = problem.workload
    if problem.goal.measure == "cost" and solution.score < 0 and load.rate is not None:
        return (
            f"serves only {1 + solution.score:.1%} of {load.rate:g} requests/s ({solution.solver})"
        )
    text = f"{solution.score:,.1f} {unit} by {solution.solver}"
    if solution.bound == float("inf"):
        return f"{text}, no bound known"
    return f"{text}, at most {solution.bound:,.1f} (gap {solution.gap:.1%})"


def summary(problem: Problem, evaluation: Evaluation) -> list[str]:
    """What the plan does as a whole."""
    load = problem.workload
    num = len(evaluation.forecasts)
    price = evaluation.price_per_hour
    lines = [
        f"{num} pipeline{'s' * (num != 1)}: {evaluation.tokens_per_s:,.1f} tokens/s "
        f"({evaluation.requests_per_s:.3f} requests/s of {load.name}, mean "
        f"{load.mean_prompt:.0f} in, {load.mean_output:.0f} out)"
    ]
    if price > 0:
        lines.append(
            f"  {price:.2f} $/h, {evaluation.dollars_per_million_tokens:.3f} $ a million tokens"
        )
    if load.rate is not None and evaluation.requests_per_s < load.rate:
        part = evaluation.requests_per_s / load.rate
        lines.append(
            f"  short of the {load.rate:g} requests/s of {load.name}: {part:.1%} can be served"
        )
    if evaluation.requests_per_s > 0 and problem.goal.measure == "slo":
        part = evaluation.good_requests_per_s / evaluation.requests_per_s
        lines.append(f"  {part:.1%} of the requests keep {_latencies(problem)}")
    full = (" and ".join(sorted(line)) for line in evaluation.full_lines)
    return [*lines, *(f"  the line between {ends} is full" for ends in full)]


def pipelines(problem: Problem, placement: Placement, evaluation: Evaluation) -> list[str]:
    """Each pipeline with its stages; those that differ in nothing but nodes stand together."""
    lines: list[str] = []
    pairs = list(zip(placement.pipelines, evaluation.forecasts, strict=True))
    entries = [(_pipeline(problem, p, f), i) for i, (p, f) in enumerate(pairs)]
    for text, group in groupby(entries, key=lambda entry: entry[0]):
        numbers = [number for _, number in group]
        which = f"{numbers[0]}" if len(numbers) == 1 else f"{numbers[0]}-{numbers[-1]}"
        lines += [f"pipeline {which}: {text[0]}", *text[1]]
    return lines


def explain(one: tuple[str, Sequence[str]], other: tuple[str, Sequence[str]]) -> str:
    """Two reports line by line: "-" is only in the first, "+" only in the second."""
    diff = difflib.unified_diff(one[1], other[1], one[0], other[0], lineterm="", n=1000)
    text = "\n".join(diff)
    return text or "the plans are the same"


def _pipeline(
    problem: Problem, pipeline: PlacedPipeline, forecast: Forecast
) -> tuple[str, tuple[str, ...]]:
    parts = [
        f"{forecast.requests_per_s * problem.workload.mean_output:,.1f} tokens/s",
        f"{forecast.num_sequences:.0f} sequences" if pipeline.phase != "prefill" else "",
        f"TTFT {forecast.ttft_s:.3f} s" if pipeline.phase != "decode" else "",
        f"TPOT {forecast.tpot_s * 1e3:.1f} ms" if pipeline.phase != "prefill" else "",
        f"{forecast.kv_tokens // problem.limits.block_tokens} KV blocks",
        pipeline.phase if pipeline.phase != "both" else "",
    ]
    head = ", ".join(part for part in parts if part)
    stages = [
        f"  stage {number:>2}  {_where(problem.cluster, stage):<28} layers "
        f"{stage.start:>3}:{stage.end:<3} {seconds * 1e3:8.2f} ms"
        for number, (stage, seconds) in enumerate(
            zip(pipeline.stages, forecast.stage_s, strict=True)
        )
    ]
    return head, (*stages, f"  {_bottleneck(problem.cluster, pipeline, forecast)}")


def _where(cluster: Cluster, stage: PlacedStage) -> str:
    kind = cluster.node(stage.group.node).devices[stage.group.devices[0]]
    devices = ",".join(str(index) for index in stage.group.devices)
    tp = f" TP{len(stage.group.devices)}" if len(stage.group.devices) > 1 else ""
    return f"{kind}{tp} {stage.group.node}:{devices}"


def _bottleneck(cluster: Cluster, pipeline: PlacedPipeline, forecast: Forecast) -> str:
    at = forecast.slowest
    if forecast.bottleneck == "stage":
        where = _where(cluster, pipeline.stages[at])
        return f"bound by stage {at} ({where}), {forecast.stage_s[at] * 1e3:.2f} ms a step"
    if forecast.bottleneck == "link":
        one, other = pipeline.stages[at].group.node, pipeline.stages[at + 1].group.node
        return f"bound by the link {one} to {other}, {forecast.hop_s[at] * 1e3:.2f} ms a step"
    total = sum(forecast.stage_s) + sum(forecast.hop_s)
    return (
        f"bound by the way through all stages, {total * 1e3:.2f} ms a step, of which links "
        f"{sum(forecast.hop_s) * 1e3:.2f} ms"
    )


def _latencies(problem: Problem) -> str:
    goal = problem.goal
    parts = [
        f"TTFT {goal.ttft_s:g} s" if goal.ttft_s is not None else "",
        f"TPOT {goal.tpot_s:g} s" if goal.tpot_s is not None else "",
    ]
    return " and ".join(part for part in parts if part)
