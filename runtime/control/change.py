"""`ctl swap`, `drain`, `flip` and `move`: orders to a service that serves, and their reports."""

import argparse
import json
from pathlib import Path
from typing import Any

from rich.console import Console

from runtime.control.options import count, route, time
from runtime.control.printing import say, show_table
from runtime.control.service import CommandFailed, Service
from runtime.control.waiting import phase_shown
from runtime.reports import ChangeReport, Phase

CHANGE_TIMEOUT_S = 1000.0
FLIP_TIMEOUT_S = 30.0
GRACE_S = 30.0


def add_commands(commands: Any) -> None:
    """Add these commands to the parser's."""
    swap = commands.add_parser("swap", help="give a pipeline other stages while it serves")
    how = swap.add_mutually_exclusive_group(required=True)
    how.add_argument("--layers", metavar="0:5,5:12", help="layers of each stage")
    how.add_argument("--stages", type=count, metavar="N", help="so many stages, split by speed")
    how.add_argument(
        "--plan",
        type=Path,
        metavar="PLAN.json",
        help="a whole plan, from `ctl plan --json` or the planner",
    )
    swap.add_argument("--pipeline", metavar="ID", help="which (default: the only one)")
    swap.add_argument("--dry-run", action="store_true", help="say what would move; move nothing")
    swap.set_defaults(run=run_swap)
    drain = commands.add_parser("drain", help="move everything off a node, and let it leave")
    drain.add_argument("node", metavar="NODE")
    drain.add_argument(
        "--deadline", type=time, default=30.0, metavar="S", help="seconds (default: 30)"
    )
    drain.set_defaults(run=run_drain)
    flip = commands.add_parser(
        "flip",
        help="have pipelines serve other phases of requests; nothing is moved or reloaded",
    )
    flip.add_argument(
        "phases",
        nargs="+",
        metavar="PIPELINE PHASE",
        help="a pipeline's id and both, prefill or decode; several pairs change at once",
    )
    flip.add_argument(
        "--route",
        type=route,
        action="append",
        default=[],
        metavar="FROM:TO=WEIGHT",
        help="the share of its requests that a prefill pipeline hands off there",
    )
    flip.add_argument("--dry-run", action="store_true", help="say what would change")
    flip.set_defaults(run=run_flip)
    move = commands.add_parser("move", help="move a running request to another pipeline")
    move.add_argument("request", metavar="REQUEST", help="its id, from `ctl requests`")
    move.add_argument("pipeline", metavar="PIPELINE")
    move.set_defaults(run=run_move)


def run_swap(options: argparse.Namespace, service: Service, console: Console) -> None:
    """Other stages for a pipeline."""
    fields = {"layers": options.layers, "stages": options.stages, "pipeline": options.pipeline}
    fields["plan"] = None if options.plan is None else _read_plan(options.plan)
    wanted = {name: value for name, value in fields.items() if value is not None}
    wanted["dry_run"] = options.dry_run
    verb = "would move" if options.dry_run else "moved"
    _order(service, console, "/admin/plan", wanted, CHANGE_TIMEOUT_S, verb)


def run_drain(options: argparse.Namespace, service: Service, console: Console) -> None:
    """A node that is to leave."""
    fields = {"node": options.node, "deadline_s": options.deadline}
    _order(service, console, "/admin/drain", fields, options.deadline + GRACE_S)


def run_flip(options: argparse.Namespace, service: Service, console: Console) -> None:
    """Pipelines that are to serve other phases."""
    words: list[str] = options.phases
    if len(words) % 2:
        raise CommandFailed(
            f"flip: expected pairs of a pipeline and a phase, got {' '.join(words)}"
        )
    phases = dict(zip(words[::2], words[1::2], strict=True))
    if 2 * len(phases) != len(words):
        raise CommandFailed(f"flip: expected each pipeline once, got {' '.join(words)}")
    fields: dict[str, Any] = {"phases": phases, "dry_run": options.dry_run}
    if options.route:
        names = ("prefill", "decode", "weight")
        fields["routes"] = [dict(zip(names, found, strict=True)) for found in options.route]
    verb = "would change:" if options.dry_run else "changed:"
    _order(service, console, "/admin/flip", fields, FLIP_TIMEOUT_S, verb)


def run_move(options: argparse.Namespace, service: Service, console: Console) -> None:
    """A request that goes on elsewhere."""
    fields = {"request": options.request, "pipeline": options.pipeline}
    _order(service, console, "/admin/move", fields, CHANGE_TIMEOUT_S)


def _read_plan(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CommandFailed(f"cannot read {path}: {error.strerror}") from None
    except ValueError as error:
        raise CommandFailed(f"{path} is not JSON: {error}") from None


def _order(
    service: Service,
    console: Console,
    path: str,
    fields: dict[str, Any],
    timeout_s: float,
    verb: str = "moved",
) -> None:
    """Give an order and show the report; raises `CommandFailed` where it was not done."""
    with phase_shown(service, console):
        answer = service.post(path, fields, timeout_s)
    report = service.understood(answer, ChangeReport, "a report of the change")
    for move in report.moves:
        say(console, f"{verb} {move}")
    if not report.moves and report.done:
        say(console, "nothing moves")
    if report.phases:
        show_table(console, ("phase",), ("ms", "MB"), map(_row, report.phases))
    if not report.done:
        raise CommandFailed(report.reason or "it was not done, and no reason was given")
    say(console, f"epoch {report.epoch}")


def _row(phase: Phase) -> list[str]:
    return [phase.name, f"{phase.seconds * 1000:.1f}", f"{phase.bytes / 1e6:.2f}"]
