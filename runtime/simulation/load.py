"""The requests of a simulation: when each comes, how long its prompt is and how long its answer.

Arrivals are a Poisson process of log-normal lengths, or a trace: a CSV with the columns
`TIMESTAMP,ContextTokens,GeneratedTokens`. Everything comes from one seed. It never knows a service.
"""

import csv
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from itertools import islice, takewhile
from pathlib import Path

from runtime.errors import ConfigError
from runtime.simulation.cluster_file import LoadFile

_EPOCH = datetime(1970, 1, 1)  # a trace has no zone, and only differences count
COLUMNS = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")


@dataclass(frozen=True, slots=True)
class Arrival:
    """One request to come, `at_s` seconds after the service is up."""

    at_s: float
    num_prompt: int
    num_output: int


def poisson(rng: random.Random, load: LoadFile) -> Iterator[Arrival]:
    """Requests without end at a mean rate a second, their lengths log-normal."""
    at_s = 0.0
    while True:
        at_s += rng.expovariate(load.rate)
        prompt = _log_normal(rng, load.mean_prompt, load.spread)
        yield Arrival(at_s, prompt, _log_normal(rng, load.mean_output, load.spread))


def trace(path: Path, rate: float | None = None) -> list[Arrival]:
    """The requests of a trace, from 0 on; with a rate, stretched or squeezed to have it.

    Raises:
        ConfigError: the file cannot be read, or is no such trace.
    """
    try:
        with path.open(encoding="utf-8", newline="") as lines:
            rows = csv.DictReader(lines)
            if tuple(rows.fieldnames or ()) != COLUMNS:
                raise ConfigError(f"{path}: expected the columns {','.join(COLUMNS)}")
            found = [_arrival(path, rows.line_num, row) for row in rows]
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"trace: cannot read {path}: {error}") from None
    if not found:
        raise ConfigError(f"{path}: no requests")
    found.sort(key=lambda arrival: arrival.at_s)
    first, span_s = found[0].at_s, found[-1].at_s - found[0].at_s
    scale = (len(found) - 1) / (span_s * rate) if rate and span_s else 1.0
    return [Arrival((a.at_s - first) * scale, a.num_prompt, a.num_output) for a in found]


def limited(
    arrivals: Iterator[Arrival],
    max_model_len: int,
    duration_s: float | None,
    num_requests: int | None,
) -> list[Arrival]:
    """Those that come in time, as many as wanted, and no longer than the model takes."""
    coming = takewhile(lambda a: duration_s is None or a.at_s <= duration_s, arrivals)
    return [_fitting(arrival, max_model_len) for arrival in islice(coming, num_requests)]


def _fitting(arrival: Arrival, max_model_len: int) -> Arrival:
    """A prompt leaves room for a token; an answer takes what the prompt leaves."""
    num_prompt = min(arrival.num_prompt, max_model_len - 1)
    return Arrival(arrival.at_s, num_prompt, min(arrival.num_output, max_model_len - num_prompt))


def _log_normal(rng: random.Random, mean: float, spread: float) -> int:
    return max(1, round(rng.lognormvariate(math.log(mean) - spread * spread / 2, spread)))


def _arrival(path: Path, line: int, row: dict[str, str]) -> Arrival:
    try:
        at_s = (datetime.fromisoformat(row["TIMESTAMP"][:26]) - _EPOCH).total_seconds()
        num_prompt, num_output = int(row["ContextTokens"]), int(row["GeneratedTokens"])
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{path}:{line}: {error}") from None
    return Arrival(at_s, max(1, num_prompt), max(1, num_output))
