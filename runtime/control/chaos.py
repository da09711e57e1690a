"""`ctl chaos` at work: strike a service under load, and see whether any stream suffers."""

import argparse
import asyncio
import json
import sys
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import asdict

import aiohttp
from rich.console import Console

from runtime.chaos.report import FAULTS, Report, in_all
from runtime.chaos.run import ChaosRun, Settings
from runtime.chaos.site import Site
from runtime.chaos.strikes import Disturb, Kill, Pause, Strike
from runtime.chaos.striking import Striker
from runtime.control.printing import say, show_table
from runtime.control.service import CommandFailed, Service

BYTES_PER_MB = 1e6


def run_chaos(options: argparse.Namespace, service: Service, console: Console) -> None:
    """Strikes one after another, each with its report; raises where a stream suffered."""
    strikes = _strikes(options)
    if bool(strikes) == (options.minutes is not None):
        raise CommandFailed("say what to strike, or for how many --minutes at random; one of them")
    if not options.slow_link and (options.latency is not None or options.rate is not None):
        raise CommandFailed("--latency and --rate say how slow a --slow-link is, and there is none")
    if options.at_token >= options.max_tokens:
        within = f"{options.max_tokens} tokens"
        raise CommandFailed(f"--at-token {options.at_token} is not within {within}")
    reports: list[Report] = []
    try:
        asyncio.run(_run(options, strikes, service.url, _taking(reports, options, console)))
    finally:
        if reports:  # a run that breaks off still tells what it saw
            _show(reports, options, console)
    if not (total := in_all(reports)).is_clean:
        raise CommandFailed(f"streams suffered: {total.faults}")


def _strikes(options: argparse.Namespace) -> list[Strike]:
    return [
        *(Kill(target) for target in options.kill),
        *(Pause(target, options.for_s) for target in options.pause),
        *(Disturb("partition", a, b, options.for_s) for a, b in options.partition),
        *(
            Disturb("slow-link", a, b, options.for_s, options.latency, _bytes_per_s(options))
            for a, b in options.slow_link
        ),
    ]


def _bytes_per_s(options: argparse.Namespace) -> float | None:
    return None if options.rate is None else options.rate * BYTES_PER_MB


def _taking(
    reports: list[Report], options: argparse.Namespace, console: Console
) -> Callable[[Report], None]:
    """Keeps each report, and says at once how it went."""

    def take(report: Report) -> None:
        reports.append(report)
        if not options.json:
            say(console, f"{report.what}: {report.faults or 'clean'}")

    return take


async def _run(
    options: argparse.Namespace, strikes: list[Strike], url: str, take: Callable[[Report], None]
) -> None:
    settings = Settings(
        num_streams=options.streams,
        num_tokens=options.max_tokens,
        at_token=options.at_token,
        max_gap_s=options.max_gap,
    )
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        site = Site(session, url)
        run = ChaosRun(site, Striker(site), settings, options.seed)
        async with aclosing(_reports(run, strikes, options.minutes)) as coming:
            async for report in coming:
                take(report)


def _reports(
    run: ChaosRun, strikes: list[Strike], minutes: float | None
) -> AsyncGenerator[Report, None]:
    return run.strikes(strikes) if minutes is None else run.randomly(minutes)


def _show(reports: Sequence[Report], options: argparse.Namespace, console: Console) -> None:
    """All reports and their sum, as a table or as JSON."""
    total = in_all(reports)
    if options.json:
        told = {"strikes": [asdict(report) for report in reports], "in_all": asdict(total)}
        sys.stdout.write(json.dumps(told, indent=2) + "\n")
        return
    columns = ("streams", *FAULTS, "cut", "recoveries")
    rows = [
        [report.what, *(str(getattr(report, name)) for name in columns), _seconds(report)]
        for report in (*reports, total)
    ]
    show_table(console, ("strike",), (*columns, "longest gap"), rows)


def _seconds(report: Report) -> str:
    return f"{report.longest_gap_s:.2f} s"
