"""From what was typed to a problem: cluster file, model, workload, goal and limits.

The one idea: every file is read strictly and every number is held against what it must be, so that
solvers meet only problems that make sense; what makes none is one sentence.
"""

import argparse
from collections.abc import Mapping
from dataclasses import replace
from math import ceil
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from scheduling.cluster_toml import ClusterFile, parse_cluster
from scheduling.command_files import CommandError, read_json, read_text
from scheduling.errors import InvalidCluster
from scheduling.goal import Goal, Limits
from scheduling.model_profile import known_model, profile, shape_of
from scheduling.roofline import ModelShape
from scheduling.solvers.interface import Problem
from scheduling.workload import (
    MAX_TOKENS,
    PUBLISHED,
    Workload,
    fixed,
    from_trace,
    log_normal,
    synthetic,
)

_IGNORED_SERVING = {
    "max_waiting",
    "num_blocks",
    "replay_log_bytes",
    "spares",
    "step_deadline_s",
    "token_timeout_s",
    "recovery_timeout_s",
    "max_held",
}

Count = Annotated[int, Meta(ge=1, le=10**8)]


class Serving(Struct, frozen=True):
    """What planning takes of a cluster file's `[serving]`; what it leaves out is a service's."""

    max_running: Count = 64
    max_step_tokens: Count = 512
    max_model_len: Count = 8192
    block_tokens: Count = 16
    memory_fraction: Annotated[float, Meta(ge=0, le=1)] = 0.0


class Load(Struct, frozen=True, forbid_unknown_fields=True):
    """A cluster file's `[load]`: the lengths count here, how often they come in a simulation."""

    rate: float = 1.0
    mean_prompt: Annotated[float, Meta(ge=1, le=MAX_TOKENS)] = 1000.0
    mean_output: Annotated[float, Meta(ge=1, le=MAX_TOKENS)] = 200.0
    spread: Annotated[float, Meta(ge=0, le=4)] = 0.7


def problem_of(options: argparse.Namespace) -> tuple[Problem, str]:
    """The problem, and what its model is called.

    Raises:
        SchedulingError: a file or a number makes no sense; says which and what was expected.
        ValueError: the same, of a goal, a limit or a workload.
    """
    try:
        file = parse_cluster(read_text(options.cluster))
    except InvalidCluster as error:
        raise InvalidCluster(f"{options.cluster}: {error}") from None
    shape, model = _model(options.model, file)
    limits = _limits(options, file.serving)
    problem = Problem(
        cluster=file.cluster,
        shape=shape,
        workload=_workload(options, file, limits),
        goal=Goal(
            measure=options.objective,
            budget_per_hour=options.budget,
            ttft_s=options.slo.get("ttft"),
            tpot_s=options.slo.get("tpot"),
        ),
        limits=limits,
    )
    _check_lengths(problem)
    return problem, model


def named_model(named: str) -> ModelShape:
    """A known model, or that of a `config.json` or its folder.

    Raises:
        SchedulingError: there is none of that name, or the file says too little.
    """
    path = Path(named)
    if "\0" not in named and path.is_dir():
        path = path / "config.json"
    if path.suffix != ".json":
        return known_model(named)
    return profile(read_json(path))


def _model(named: str | None, file: ClusterFile) -> tuple[ModelShape, str]:
    if named is not None:
        return named_model(named), named
    model = file.model
    if not model:
        raise CommandError("model: the cluster file names none; give --model")
    if "name" not in model:
        return shape_of(model), "model"
    if set(model) != {"name"} or not isinstance(model["name"], str):
        raise CommandError(
            f"model: expected a name alone, or numbers without one, got {sorted(model)}"
        )
    return known_model(model["name"]), model["name"]


def _limits(options: argparse.Namespace, serving: Mapping[str, Any]) -> Limits:
    known = {*Serving.__struct_fields__, *_IGNORED_SERVING}
    unknown = set(serving) - known
    if unknown:
        raise InvalidCluster(f"serving.{min(unknown)}: not one of {', '.join(sorted(known))}")
    given = {key: value for key, value in serving.items() if key not in _IGNORED_SERVING}
    try:
        read = msgspec.to_builtins(msgspec.convert(given, Serving))
    except msgspec.ValidationError as error:
        raise InvalidCluster(f"{options.cluster}: serving: {error}") from None
    if not read["memory_fraction"]:  # that is left to whoever serves
        del read["memory_fraction"]
    return Limits(max_tp=options.max_tp, disaggregate=options.disaggregate, **read)


def _workload(options: argparse.Namespace, file: ClusterFile, limits: Limits) -> Workload:
    text, rate = options.workload, options.rate
    if text == "load":
        return replace(_load_of(file, limits.max_model_len), rate=rate)
    if text in PUBLISHED:
        return synthetic(text, rate)
    prompt, colon, output = text.partition(":")
    if colon and _is_number(prompt) and _is_number(output):
        return fixed(int(prompt), int(output), rate)
    path = Path(text)
    if path.suffix != ".csv":
        raise CommandError(
            f"workload: expected {', '.join(PUBLISHED)}, load, IN:OUT of at most {MAX_TOKENS} "
            f"tokens or a .csv file, got {text[:80]!r}"
        )
    return from_trace(path.stem, read_text(path).splitlines(keepends=True), rate)


def _load_of(file: ClusterFile, max_len: int) -> Workload:
    """The lengths that a cluster file is simulated with."""
    try:
        load = msgspec.convert(file.load, Load)
    except msgspec.ValidationError as error:
        raise CommandError(f"load: {error}") from None
    return log_normal(load.mean_prompt, load.mean_output, load.spread, max(2, max_len))


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 10


def _check_lengths(problem: Problem) -> None:
    """Refuse requests of which the mean is too long to be served."""
    load, most = problem.workload, problem.limits.max_model_len
    mean = load.mean_prompt + load.mean_output
    if mean > most:
        raise CommandError(
            f"workload: requests of {load.name} have {mean:.0f} tokens in the mean, and "
            f"serving.max_model_len is {most}; set it to {ceil(mean)} or more in the cluster "
            f"file, or give shorter requests"
        )
