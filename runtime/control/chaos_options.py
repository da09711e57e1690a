"""`ctl chaos`: its options. What it does is imported only by who uses it: that takes a while."""

import argparse
from typing import Any

from rich.console import Console

from runtime.control.options import count, time, two_ends
from runtime.control.service import Service

EPILOG = """\
targets: stage:N (stage:PIPELINE/N where there are several pipelines), node:NAME, coordinator,
gateway, pipeline:ID; `ctl status` shows which there are. Between A and B of --partition and
--slow-link are all links of the processes that they name: node:NAME (or NAME) is a node's own
process and its stages', pipeline:ID the process of its actor. Only a service that was launched
with --chaos lets its links be disturbed.
"""


def add_commands(commands: Any) -> None:
    """Add this command to the parser's."""
    chaos = commands.add_parser(
        "chaos",
        help="strike the service under load; fails if any stream suffers",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_strikes(chaos.add_argument)
    _add_load(chaos.add_argument)
    chaos.set_defaults(run=_run)


def _add_strikes(add: Any) -> None:
    add("--kill", action="append", default=[], metavar="TARGET", help="end a process at once")
    add("--pause", action="append", default=[], metavar="TARGET", help="stop a process, for a time")
    ends: dict[str, Any] = {"action": "append", "default": [], "metavar": "A|B", "type": two_ends}
    add("--partition", **ends, help="cut all links between two targets, for a time")
    add("--slow-link", **ends, help="slow all links between two targets, for a time")
    add("--latency", type=time, metavar="S", help="of a slow link (default: the service's, 0.1)")
    add("--rate", type=time, metavar="MB/S", help="of a slow link (default: the service's, 10)")
    add("--for", dest="for_s", type=time, default=5.0, metavar="S", help="(default: 5)")
    add("--at-token", type=count, default=40, metavar="N", help="of the first stream (default: 40)")
    add("--minutes", type=time, metavar="M", help="random strikes for so long, instead")
    add("--seed", type=int, default=0, help="of requests and random strikes (default: 0)")


def _add_load(add: Any) -> None:
    add("--streams", type=count, default=16, metavar="N", help="at a time (default: 16)")
    add("--max-tokens", type=count, default=200, metavar="N", help="a stream (default: 200)")
    add(
        "--max-gap",
        type=time,
        default=10.0,
        metavar="S",
        help="a token is late after so long (default: 10)",
    )
    add("--json", action="store_true", help="the reports as JSON instead")


def _run(options: argparse.Namespace, service: Service, console: Console) -> None:
    from runtime.control.chaos import run_chaos

    run_chaos(options, service, console)
