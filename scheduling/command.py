"""`python -m scheduling.plan CLUSTER.toml`: the best plan for a cluster, with its reasons.

    python -m scheduling.plan CLUSTER.toml --model llama-70b --workload conversation
    python -m scheduling.plan CLUSTER.toml --model config.json --workload 1000:200 \
        --objective slo --slo ttft=0.4,tpot=0.1 --time 30 --json plan.json
    python -m scheduling.plan explain a.json b.json CLUSTER.toml --model llama-70b

See docs/planner.md.
"""

import argparse
import json
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TextIO

from scheduling.clock import monotonic
from scheduling.cluster_toml import ClusterFile, parse_cluster
from scheduling.errors import InvalidCluster, InvalidPlan, SchedulingError
from scheduling.goal import MEASURES, Goal, Limits
from scheduling.model_profile import known_model, profile
from scheduling.objective import Objective
from scheduling.plan_file import read_document, to_document
from scheduling.plan_plot import check_plot, save_plot
from scheduling.plan_report import explain, goal_line, pipelines, report, summary
from scheduling.planner import SOLVERS, plan
from scheduling.roofline import ModelShape
from scheduling.solvers.interface import Budget, Clock, Problem, Solution
from scheduling.workload import PUBLISHED, Workload, fixed, from_trace, log_normal, synthetic

DEFAULT_TIME_S = 10.0
_SERVING_KEYS = ("max_running", "max_step_tokens", "max_model_len", "block_tokens")
SERVICE = {"max_running": 64, "max_step_tokens": 512, "max_model_len": 8192, "block_tokens": 16}
"""What a service and a simulation do where the file says nothing; a test holds them together."""
_IGNORED_SERVING = {
    "max_waiting",
    "num_blocks",
    "replay_log_bytes",
    "spares",
    "step_deadline_s",
    "token_timeout_s",
    "recovery_timeout_s",
    "max_held",
    "memory_fraction",
}


class CommandError(SchedulingError):
    """What was typed cannot be done; the text says what was expected."""


def main(arguments: list[str] | None = None, clock: Clock = monotonic) -> int:
    """Plan, or explain; 0 if that could be done, 1 with a sentence on stderr if not."""
    given = sys.argv[1:] if arguments is None else arguments
    try:
        if given[:1] == ["explain"]:
            sys.stdout.write(_explain(_explain_parser().parse_args(given[1:])))
        else:
            _plan(_parser().parse_args(given), clock, sys.stdout, sys.stderr)
    except (SchedulingError, ValueError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return 0


def _plan(options: argparse.Namespace, clock: Clock, out: TextIO, err: TextIO) -> None:
    if options.plot:
        check_plot(options.plot)
    budget = Budget(seconds=options.time, clock=clock)
    problem, model = _problem(options)

    def progress(solution: Solution, spent_s: float) -> None:
        err.write(f"{spent_s:7.2f} s  {goal_line(problem, solution)}\n")
        err.flush()

    outcome = plan(
        problem, budget=budget, solver=options.solver, seed=options.seed, on_progress=progress
    )
    out.write(report(outcome) + "\n")
    if options.json:
        text = json.dumps(to_document(outcome, model), indent=2)
        options.json.write_text(text + "\n", encoding="utf-8")
    if options.plot:
        save_plot(outcome, options.plot)


def _explain(options: argparse.Namespace) -> str:
    problem, _ = _problem(options)
    reports = []
    for path in (options.one, options.other):
        try:
            placement = read_document(json.loads(path.read_text(encoding="utf-8")), problem.cluster)
        except json.JSONDecodeError as error:
            raise InvalidPlan(f"{path}: not JSON: {error}") from None
        except (InvalidPlan, InvalidCluster) as error:
            raise InvalidPlan(f"{path}: {error}") from None
        evaluation = Objective.of(problem).evaluate(placement)
        lines = [*summary(problem, evaluation), *pipelines(problem, placement, evaluation)]
        reports.append((str(path), lines))
    return explain(reports[0], reports[1]) + "\n"


# --- what was typed


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m scheduling.plan",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_problem(parser)
    parser.add_argument("--solver", choices=["auto", *SOLVERS], default="auto")
    parser.add_argument(
        "--time",
        type=_positive,
        default=DEFAULT_TIME_S,
        metavar="S",
        help="seconds to search (default 10)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of all chance (default 0)")
    parser.add_argument("--json", type=Path, metavar="F", help="write the plan to a file")
    parser.add_argument("--plot", type=Path, metavar="F", help="draw the plan, as .svg or .png")
    return parser


def _explain_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m scheduling.plan explain")
    parser.add_argument("one", type=Path, metavar="A.json")
    parser.add_argument("other", type=Path, metavar="B.json")
    _add_problem(parser)
    return parser


def _add_problem(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("cluster", type=Path, metavar="CLUSTER.toml")
    parser.add_argument("--model", help="a known model, or a config.json (default: the cluster's)")
    parser.add_argument(
        "--workload",
        default="conversation",
        help="conversation, code, IN:OUT tokens, a trace.csv, or load: the cluster file's own, as "
        "it is simulated",
    )
    parser.add_argument("--rate", type=_positive, help="requests a second to be served")
    parser.add_argument("--objective", choices=MEASURES, default="throughput")
    parser.add_argument("--budget", type=_positive, metavar="$/h", help="what nodes may cost")
    parser.add_argument(
        "--slo",
        type=_slo,
        default={},
        metavar="ttft=S,tpot=S",
        help="latencies to keep, with --objective slo",
    )
    parser.add_argument(
        "--max-tp", type=int, default=1, help="devices of a node that one stage may use (default 1)"
    )
    parser.add_argument(
        "--disaggregate", action="store_true", help="let pipelines serve prefill or decode alone"
    )


def _problem(options: argparse.Namespace) -> tuple[Problem, str]:
    try:
        file = parse_cluster(options.cluster.read_text(encoding="utf-8"))
    except (InvalidCluster, UnicodeDecodeError) as error:
        raise InvalidCluster(f"{options.cluster}: {error}") from None
    shape, model = _model(options.model, file)
    problem = Problem(
        cluster=file.cluster,
        shape=shape,
        workload=_workload(options.workload, options.rate, file),
        goal=Goal(
            measure=options.objective,
            budget_per_hour=options.budget,
            ttft_s=options.slo.get("ttft"),
            tpot_s=options.slo.get("tpot"),
        ),
        limits=_limits(options, file.serving),
    )
    return problem, model


def _model(named: str | None, file: ClusterFile) -> tuple[ModelShape, str]:
    if named is None:
        return _model_of_file(file.model)
    path = Path(named)
    if path.is_dir():
        path = path / "config.json"
    if path.suffix != ".json":
        return known_model(named), named
    try:
        return profile(json.loads(path.read_text(encoding="utf-8"))), named
    except json.JSONDecodeError as error:
        raise CommandError(f"{path}: not JSON: {error}") from None


def _model_of_file(model: Mapping[str, Any]) -> tuple[ModelShape, str]:
    """The model of the cluster file: a known name, or its numbers."""
    if not model:
        raise CommandError("model: the cluster file names none; give --model")
    if "name" in model:
        return known_model(model["name"]), model["name"]
    try:
        return ModelShape(**model), "model"
    except TypeError as error:
        raise CommandError(f"model: {error}") from None


def _limits(options: argparse.Namespace, serving: Mapping[str, Any]) -> Limits:
    unknown = set(serving) - set(_SERVING_KEYS) - _IGNORED_SERVING
    if unknown:
        known = ", ".join(sorted({*_SERVING_KEYS, *_IGNORED_SERVING}))
        raise InvalidCluster(f"serving.{min(unknown)}: not one of {known}")
    given = SERVICE | {key: serving[key] for key in _SERVING_KEYS if key in serving}
    if serving.get("memory_fraction"):
        given["memory_fraction"] = serving["memory_fraction"]
    return Limits(max_tp=options.max_tp, disaggregate=options.disaggregate, **given)


def _workload(text: str, rate: float | None, file: ClusterFile) -> Workload:
    if text == "load":
        return replace(_load_of(file), rate=rate)
    if text in PUBLISHED:
        return synthetic(text, rate)
    prompt, colon, output = text.partition(":")
    if colon and prompt.isdecimal() and output.isdecimal():
        return fixed(int(prompt), int(output), rate)
    path = Path(text)
    if path.suffix != ".csv":
        raise CommandError(
            f"workload: expected {', '.join(PUBLISHED)}, load, IN:OUT or a .csv file, got {text!r}"
        )
    with path.open(encoding="utf-8", newline="") as lines:
        return from_trace(path.stem, lines, rate)


def _load_of(file: ClusterFile) -> Workload:
    """The lengths of the cluster file's `[load]`; how often they come is for a simulation."""
    values = {"mean_prompt": 1000.0, "mean_output": 200.0, "spread": 0.7}
    for name, value in file.load.items():
        if name == "rate":
            continue
        if name not in values or isinstance(value, bool) or not isinstance(value, int | float):
            known = ", ".join(sorted({*values, "rate"}))
            raise CommandError(f"load.{name}: expected a number for one of {known}, got {value!r}")
        least = 0 if name == "spread" else 1
        if not least <= value < float("inf"):
            raise CommandError(f"load.{name}: expected {least} or more, got {value!r}")
        values[name] = float(value)
    max_len = int(file.serving.get("max_model_len", SERVICE["max_model_len"]))
    return log_normal(
        values["mean_prompt"], values["mean_output"], values["spread"], max(2, max_len)
    )


def _slo(text: str) -> dict[str, float]:
    found = {}
    for part in text.split(","):
        name, _, value = part.partition("=")
        if name not in ("ttft", "tpot") or name in found:
            raise argparse.ArgumentTypeError(f"expected ttft=S,tpot=S or one of them, got {text!r}")
        found[name] = _positive(value)
    return found


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a number above 0, got {text!r}")
    return value
