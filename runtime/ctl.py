"""`python -m runtime.ctl status`: how a running service stands, as a table a person reads."""

import argparse
import http.client
import json
import sys
import urllib.error
import urllib.request
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

DEFAULT_URL = "http://127.0.0.1:8000"
TIMEOUT_S = 10.0
PIPE_WIDTH = 240
KEYS = frozenset({"model", "epoch", "missing", "pipelines", "requests"})


def main(arguments: list[str] | None = None) -> int:
    """Run one control command; 0 if it worked, 1 if not, 2 if it was mistyped."""
    options = _parser().parse_args(arguments)
    try:
        status = fetch(f"{options.url.rstrip('/')}/admin/status")
    except (OSError, http.client.HTTPException) as error:
        reason = " ".join(str(error).split())[:200]
        sys.stderr.write(
            f"error: no Remuda service answers at {options.url} ({reason}); start one with "
            f"`python -m runtime.launch`, or name another with --url\n"
        )
        return 1
    if options.json:
        sys.stdout.write(json.dumps(status, indent=2) + "\n")
    else:
        show(status, _console())
    return 0


def _console() -> Console:
    """As wide as the terminal; where nobody looks, wide enough to cut no name short."""
    return Console() if sys.stdout.isatty() else Console(width=PIPE_WIDTH)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m runtime.ctl", description=__doc__)
    parser.add_argument("--url", default=DEFAULT_URL, help="the service (default: %(default)s)")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    status = commands.add_parser("status", help="pipelines, stages, layers, requests")
    status.add_argument("--json", action="store_true", help="the JSON of /admin/status instead")
    return parser


def fetch(url: str) -> dict[str, Any]:
    """GET a JSON object; raises OSError where the service does not answer with one."""
    if not url.startswith(("http://", "https://")):
        raise OSError(f"{url} is not an http(s) address")
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_S) as answer:
            found = json.loads(answer.read())
    except ValueError as error:
        raise OSError(f"{url} did not answer with JSON: {error}") from None
    if not isinstance(found, dict) or not found.keys() >= KEYS:
        raise OSError(f"{url} did not answer with a service's status")
    return found


def show(status: dict[str, Any], console: Console) -> None:
    """Print a status as one line and a table of stages."""
    requests = status["requests"]
    console.print(
        f"model {status['model']}  epoch {status['epoch']}  "
        f"running {requests['running']}  waiting {requests['waiting']}",
        highlight=False,
        markup=False,
        emoji=False,
    )
    for missing in status["missing"]:
        console.print(f"  {missing}", highlight=False, markup=False, emoji=False)
    console.print(_table(status["pipelines"]))


def _table(pipelines: list[dict[str, Any]]) -> Table:
    table = Table(box=None, pad_edge=False)
    for column in ("pipeline", "stage", "node", "device", "layers", "state"):
        table.add_column(column)
    for column in ("pid", "kv blocks", "weights MB", "resident MB"):
        table.add_column(column, justify="right")
    for pipeline in pipelines:
        for stage in pipeline["stages"]:
            table.add_row(*map(escape, _row(pipeline, stage)))
    return table


def _row(pipeline: dict[str, Any], stage: dict[str, Any]) -> list[str]:
    start, end = stage["layers"]
    return [
        str(pipeline["id"]),
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


if __name__ == "__main__":
    sys.exit(main())
