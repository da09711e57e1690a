"""`python -m scheduling.plan CLUSTER.toml`: the best plan for a cluster, with its reasons.

    python -m scheduling.plan CLUSTER.toml --model llama-70b --workload conversation
    python -m scheduling.plan CLUSTER.toml --model config.json --workload 1000:200 \
        --objective slo --slo ttft=0.4,tpot=0.1 --time 30 --json plan.json
    python -m scheduling.plan explain a.json b.json CLUSTER.toml --model llama-70b
    python -m scheduling.plan --rent CATALOGUE.toml --budget 15 --model llama-70b

See docs/planner.md.
"""

import argparse
import json
import sys
from pathlib import Path, PurePath
from typing import TextIO

from scheduling.clock import monotonic
from scheduling.command_files import check_writable, read_json
from scheduling.command_options import explain_parser, plan_parser, rent_parser
from scheduling.command_problem import problem_of
from scheduling.errors import Infeasible, InvalidCluster, InvalidPlan, SchedulingError
from scheduling.objective import Objective
from scheduling.placement import Placement, check_placement
from scheduling.plan_file import model_of, read_document, to_document
from scheduling.plan_plot import check_plot, save_plot
from scheduling.plan_report import explain, goal_line, pipelines, report, summary
from scheduling.planner import plan
from scheduling.rent_plan import rented_problem
from scheduling.rent_report import rent_report
from scheduling.solvers.interface import Budget, Clock, Problem, Solution

STOPPED = 130
"""What a shell calls a command that was interrupted."""


def main(arguments: list[str] | None = None, clock: Clock = monotonic) -> int:
    """Plan, compare or rent; 0 if that could be done, 1 with a sentence on stderr if not.

    Raises:
        SystemExit: with 2, where what was typed is of no form that it knows.
    """
    given = sys.argv[1:] if arguments is None else arguments
    try:
        if given[:1] == ["explain"]:
            sys.stdout.write(_explain(explain_parser().parse_args(given[1:])))
        elif any(word.partition("=")[0] == "--rent" for word in given):
            _rent(rent_parser().parse_args(given), clock, sys.stdout)
        else:
            _plan(plan_parser(__doc__).parse_args(given), clock, sys.stdout, sys.stderr)
    except (SchedulingError, ValueError, OSError) as error:
        sys.stderr.write(f"error: {_one_line(str(error))}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("error: stopped before the search was over; give it less --time\n")
        return STOPPED
    return 0


def _plan(options: argparse.Namespace, clock: Clock, out: TextIO, err: TextIO) -> None:
    if options.plot:
        check_plot(options.plot)
    check_writable("plot", options.plot)
    check_writable("json", options.json)
    budget = Budget(seconds=options.time, clock=clock)
    problem, model = problem_of(options)

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


def _rent(options: argparse.Namespace, clock: Clock, out: TextIO) -> None:
    check_writable("json", options.json)
    half = options.time / 2
    rented = rent_report(
        options.rent,
        dollars_per_hour=options.budget,
        model=options.model,
        budget=Budget(seconds=half, clock=clock),
    )
    out.write(rented.text + "\n")
    document = rented.document
    if rented.shape is not None:
        problem = rented_problem(
            rented.catalogue, rented.num_devices, rented.shape, max_tp=options.max_tp
        )
        outcome = plan(problem, budget=Budget(seconds=half, clock=clock))
        out.write(f"\non what is rented:\n{report(outcome)}\n")
        document = document | {"plan": to_document(outcome, options.model)}
    if options.json:
        options.json.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def _explain(options: argparse.Namespace) -> str:
    problem, model = problem_of(options)
    reports = []
    for path in (options.one, options.other):
        placement = _placement(path, problem, model)
        try:
            evaluation = Objective.of(problem).evaluate(placement)
        except Infeasible as error:
            raise Infeasible(f"{path}: {error}") from None
        lines = [*summary(problem, evaluation), *pipelines(problem, placement, evaluation)]
        reports.append((str(path), lines))
    return explain(reports[0], reports[1]) + "\n"


def _placement(path: Path, problem: Problem, model: str) -> Placement:
    """A plan file's placement, if it is one of this model on this cluster."""
    data = read_json(path)
    try:
        placement = read_document(data, problem.cluster)
        if _base(model_of(data)) != _base(model):
            raise InvalidPlan(
                f"expected a plan of model {model!r}, got one of {model_of(data)!r}; give its "
                f"--model"
            )
        check_placement(placement, problem.cluster, problem.shape.num_layers)
    except (InvalidPlan, InvalidCluster) as error:
        raise InvalidPlan(f"{path}: {error}") from None
    return placement


def _base(model: str) -> str:
    """A model's name, whichever way to its folder or `config.json` was given."""
    path = PurePath(model)
    return path.parent.name if path.name == "config.json" else path.name


def _one_line(text: str) -> str:
    return " ".join(text.split())
