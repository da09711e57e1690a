"""`ctl status`: how a service stands."""

import argparse
import json
import sys
from collections.abc import Iterator
from typing import Any

from rich.console import Console

from runtime.control.printing import say, show_table
from runtime.control.service import Service

KEYS = frozenset({"model", "epoch", "missing", "pipelines", "requests"})


def add_commands(commands: Any) -> None:
    """Add this command to the parser's."""
    status = commands.add_parser("status", help="pipelines, stages, processes, requests")
    status.add_argument("--json", action="store_true", help="the JSON of /admin/status instead")
    status.set_defaults(run=run_status)


def run_status(options: argparse.Namespace, service: Service, console: Console) -> None:
    """The service's status, as tables or as JSON."""
    status = service.get("/admin/status")
    if not isinstance(status, dict) or not status.keys() >= KEYS:
        raise service.nobody("it did not answer with a service's status")
    if options.json:
        sys.stdout.write(json.dumps(status, indent=2) + "\n")
    else:
        show(status, console)


def show(status: dict[str, Any], console: Console) -> None:
    """Print a status: a line, what is missing, and tables of stages and other processes."""
    requests = status["requests"]
    say(
        console,
        f"model {status['model']}  epoch {status['epoch']}  running {requests['running']}  "
        f"waiting {requests['waiting']}  recoveries {status.get('recoveries', 0)}",
    )
    for missing in status["missing"]:
        say(console, f"  {missing}")
    if (swap := status.get("swap")) is not None:
        to = f"swap of pipeline {swap['pipeline']} to epoch {swap['epoch']}"
        say(console, f"  {to}: {swap['phase']}")
    prefix = status.get("prefix") or {"queries": 0, "hits": 0}
    if prefix["hits"]:
        say(console, f"  {prefix['hits']} of {prefix['queries']} tokens were there already")
    left = ("pipeline", "phase", "stage", "node", "device", "layers", "state")
    right = ("pid", "kv blocks", "weights MB", "resident MB")
    show_table(console, left, right, _stages(status["pipelines"]))
    if rows := list(_hand_offs(status["pipelines"])):
        counted = ("handed off", "stayed", "failed", "MB", "MB there", "mean ms")
        show_table(console, ("pipeline", "phase"), counted, rows)
    if routes := status.get("routes"):
        show_table(console, ("from", "to", "KV as"), ("weight", "MB/s"), _routes(routes))
    if processes := status.get("processes"):
        rows = [[p["role"], p["name"], str(p["pid"])] for p in processes]
        show_table(console, ("process", "name"), ("pid",), rows)


def _stages(pipelines: list[dict[str, Any]]) -> Iterator[list[str]]:
    for pipeline in pipelines:
        for stage in pipeline["stages"]:
            start, end = stage["layers"]
            yield [
                str(pipeline["id"]),
                str(pipeline.get("phase", "both")),
                str(stage["stage"]),
                stage["node"],
                stage["device"],
                f"{start}:{end}",
                stage["state"],
                str(stage["pid"]),
                str(stage["kv_blocks"]),
                f"{stage['weight_bytes'] / 1e6:.1f}",
                f"{stage['resident_bytes'] / 1e6:.1f}",
            ]


def _routes(routes: list[dict[str, Any]]) -> Iterator[list[str]]:
    """A row for each way on which requests are handed off."""
    for route in routes:
        weight, rate = route["weight"], route["bytes_per_s"]
        yield [
            route["prefill"],
            route["decode"],
            route["encoding"],
            "-" if weight is None else f"{weight:g}",
            "-" if rate is None else f"{rate / 1e6:.1f}",
        ]


def _hand_offs(pipelines: list[dict[str, Any]]) -> Iterator[list[str]]:
    """A row for each pipeline that was to hand requests off."""
    for pipeline in pipelines:
        counts = pipeline.get("hand_offs") or {}
        done, stayed, failed = (counts.get(name, 0) for name in ("done", "stayed", "failed"))
        if done or stayed or failed:
            mean_s = counts["seconds"] / done if done else 0.0
            yield [
                str(pipeline["id"]),
                pipeline["phase"],
                str(done),
                str(stayed),
                str(failed),
                f"{counts['bytes'] / 1e6:.1f}",
                f"{counts.get('present_bytes', 0) / 1e6:.1f}",
                f"{mean_s * 1000:.1f}",
            ]
