"""`ctl requests`: what is under way, and where."""

import argparse
from dataclasses import dataclass
from typing import Any

from rich.console import Console

from runtime.control.printing import show_table
from runtime.control.service import Service


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestLine:
    """A request as `/admin/requests` tells of it; `pipeline` is None while it is held."""

    id: str
    pipeline: str | None
    prompt_tokens: int
    delivered_tokens: int
    recoveries: int


@dataclass(frozen=True, slots=True)
class RequestList:
    """The answer of `/admin/requests`."""

    requests: list[RequestLine]


def add_commands(commands: Any) -> None:
    """Add this command to the parser's."""
    requests = commands.add_parser("requests", help="the requests that are under way")
    requests.set_defaults(run=run_requests)


def run_requests(options: argparse.Namespace, service: Service, console: Console) -> None:
    """All requests, as a table."""
    answer = service.get("/admin/requests")
    found = service.understood(answer, RequestList, "a list of requests").requests
    right = ("prompt tokens", "delivered", "recoveries")
    show_table(console, ("id", "pipeline"), right, map(_row, found))


def _row(found: RequestLine) -> list[str]:
    numbers = (found.prompt_tokens, found.delivered_tokens, found.recoveries)
    return [found.id, found.pipeline or "held", *map(str, numbers)]
