"""`ctl plan`: the plan that serves, the one that is proposed, and what each is predicted to do."""

import argparse
import json
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
from rich.console import Console

from runtime.control.printing import say, show_table
from runtime.control.service import CommandFailed, Service

PLANNER = "planner"


class Cost(msgspec.Struct, frozen=True):
    """What going over to the proposal takes."""

    load_bytes: int
    copy_bytes: int
    seconds: float
    pause_s: float


class PlannedStage(msgspec.Struct, frozen=True):
    """A stage as predicted; `measured_step_s` is None where no step was measured."""

    node: str
    device: str
    layers: tuple[int, int]
    step_s: float
    measured_step_s: float | None = None


class PlannedPipeline(msgspec.Struct, frozen=True):
    """A pipeline as predicted."""

    tokens_per_s: float
    cycle_s: float
    stages: tuple[PlannedStage, ...]


class Planned(msgspec.Struct, frozen=True):
    """A whole plan as predicted; `measured_tokens_per_s` is None where that was not measured."""

    tokens_per_s: float
    pipelines: tuple[PlannedPipeline, ...]
    measured_tokens_per_s: float | None = None


class Rates(msgspec.Struct, frozen=True):
    """What is known of a kind of device; `error` is that of a calibration."""

    kind: str
    source: str
    error: float | None = None
    num_sizes: int = 0


class ProposedPhases(msgspec.Struct, frozen=True):
    """Phases that would serve what comes better, or the same ones; parts of all requests."""

    phases: dict[str, str]
    attainment: float
    attainment_now: float
    gain: float
    gain_error: float
    flips: int
    cost_requests: float
    cost_s: float
    reason: str


class ObservedRequests(msgspec.Struct, frozen=True):
    """What comes; tokens, and requests a second."""

    requests_per_s: float
    mean_prompt: float
    mean_output: float


class Phases(msgspec.Struct, frozen=True):
    """Which pipelines serve which phase, and what is said of that."""

    phases: dict[str, str]
    state: str
    observed: ObservedRequests | None = None
    proposed: ProposedPhases | None = None


class Planner(msgspec.Struct, frozen=True):
    """What a service says of its plan, as far as it is shown."""

    auto: bool
    state: str
    is_stale: bool
    current: Planned | None
    proposed: Planned | None
    gain: float | None
    cost: Cost | None
    unmeasured: tuple[str, ...]
    rates: tuple[Rates, ...] = ()
    phases: Phases | None = None


def add_commands(commands: Any) -> None:
    """Add this command to the parser's."""
    plan = commands.add_parser("plan", help="what serves, and what would serve more")
    plan.add_argument("--json", action="store_true", help="the plan as JSON, for `swap --plan`")
    plan.add_argument("--proposed", action="store_true", help="with --json: the proposed plan")
    plan.set_defaults(run=run_plan)


def run_plan(options: argparse.Namespace, service: Service, console: Console) -> None:
    """The plan, to be kept or edited, or what is predicted of it."""
    if options.proposed and not options.json:
        raise CommandFailed("--proposed: expected --json beside it, which prints a plan")
    told = service.get("/admin/plan")
    if not isinstance(told, dict) or "pipelines" not in told:
        raise service.nobody("it did not answer with a plan")
    planner = told.pop(PLANNER, None)
    if options.json:
        plan = _proposed(planner) if options.proposed else told
        sys.stdout.write(json.dumps(plan, indent=2) + "\n")
        return
    _show_stages(told, console)
    if planner is None:
        say(console, "nothing is predicted: this service does not plan")
        return
    _show(service.understood(planner, Planner, "what it predicts"), console)


def _proposed(planner: Any) -> Any:
    plan = planner.get("plan") if isinstance(planner, dict) else None
    if plan is None:
        state = planner.get("state") if isinstance(planner, dict) else "it does not plan"
        raise CommandFailed(f"no plan is proposed: {state}")
    return plan


def _show_stages(plan: Mapping[str, Any], console: Console) -> None:
    rows = (
        [str(p.get("id")), s["node"], s["device"], f"{s['start']}:{s['end']}", s["worker"]]
        for p in plan["pipelines"]
        for s in p["stages"]
    )
    show_table(console, ("pipeline", "node", "device", "layers", "worker"), (), rows)


def _show(planner: Planner, console: Console) -> None:
    _show_planned("current", planner.current, console)
    _show_planned("proposed", planner.proposed, console)
    if planner.gain is not None:
        say(console, f"predicted gain {planner.gain:.1%}")
    if (cost := planner.cost) is not None:
        say(
            console,
            f"cost {cost.load_bytes / 1e6:.1f} MB to load, up to {cost.copy_bytes / 1e6:.1f} MB KV "
            f"to copy, {cost.seconds:.1f} s, of these {cost.pause_s:.2f} s of pause",
        )
    for rates in planner.rates:
        say(console, f"rates of {rates.kind}: {_told(rates)}")
    for place in planner.unmeasured:
        say(console, f"not measured: {place}")
    stale = " (the cluster has changed since: it is being looked into)" if planner.is_stale else ""
    say(console, f"auto {'on' if planner.auto else 'off'}: {planner.state}{stale}")

    if planner.phases is not None:
        _show_phases(planner.phases, console)


def _show_phases(found: Phases, console: Console) -> None:
    say(console, f"phases: {_told_phases(found.phases)}")
    if (seen := found.observed) is not None:
        say(
            console,
            f"requests: {seen.requests_per_s:.2f} a second, mean prompt {seen.mean_prompt:.0f} and "
            f"answer {seen.mean_output:.0f} tokens",
        )
    if (new := found.proposed) is not None:
        say(console, f"proposed phases: {_told_phases(new.phases)}")
        say(
            console,
            f"in time {new.attainment:.1%} of requests, not {new.attainment_now:.1%}, gain "
            f"{new.gain:.1%} (error {new.gain_error:.1%}); cost {new.flips} flips, "
            f"{new.cost_s:.1f} s, {new.cost_requests:.1f} requests late",
        )
    say(console, f"rephasing: {found.state}")
    if found.proposed is not None and found.proposed.reason != found.state:
        say(console, f"reason: {found.proposed.reason}")


def _told_phases(phases: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {phase}" for name, phase in phases.items()) or "none yet"


def _told(rates: Rates) -> str:
    if rates.error is None:
        return f"{rates.source}, as measured when its workers started"
    return f"{rates.source} by {rates.num_sizes} sizes of step, error {rates.error:.1%}"


def _show_planned(what: str, planned: Planned | None, console: Console) -> None:
    if planned is None:
        say(console, f"{what}: not known")
        return
    measured = planned.measured_tokens_per_s
    told = "not measured" if measured is None else f"measured {measured:.1f}"
    suffix = f", {told}" if what == "current" else ""
    say(console, f"{what}: predicted {planned.tokens_per_s:.1f} tokens/s{suffix}")
    show_table(
        console, ("node", "device", "layers"), ("step ms", "measured ms"), _rows(what, planned)
    )


def _rows(what: str, planned: Planned) -> Iterator[list[str]]:
    for pipeline in planned.pipelines:
        for stage in pipeline.stages:
            measured = stage.measured_step_s
            told = "not measured" if measured is None else f"{measured * 1000:.2f}"
            yield [
                stage.node,
                stage.device,
                f"{stage.layers[0]}:{stage.layers[1]}",
                f"{stage.step_s * 1000:.2f}",
                told if what == "current" else "",
            ]
