"""What a simulation comes to: counts, rates, percentiles, idle shares; as JSON or in a terminal."""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from runtime.simulation.client import Outcome
from runtime.simulation.simulation import History
from runtime.simulation.steady import steady_tokens_per_s

SHARES = (50, 90, 99)
DIGITS = 6


def summary(history: History) -> dict[str, Any]:
    """Everything as plain data; times in seconds since the service was up."""
    elapsed_s = history.end_s - history.start_s
    done = [outcome for outcome in history.outcomes if outcome.is_done]
    return {
        "elapsed_s": _rounded(elapsed_s),
        "requests": _requests(history.outcomes),
        "throughput": {
            "requests_per_s": _per_s(len(done), elapsed_s),
            "prompt_tokens_per_s": _per_s(sum(o.arrival.num_prompt for o in done), elapsed_s),
            "output_tokens_per_s": _per_s(sum(o.num_tokens for o in done), elapsed_s),
            "steady_output_tokens_per_s": _rounded(
                steady_tokens_per_s(
                    history.outcomes,
                    history.start_s,
                    max((o.arrival.at_s for o in history.outcomes), default=0.0),
                )
            ),
        },
        "ttft_s": percentiles(
            o.first_at - o.sent_at for o in history.outcomes if o.first_at is not None
        ),
        "tpot_s": percentiles(
            (o.last_at - o.first_at) / (o.num_tokens - 1)
            for o in done
            if o.first_at is not None and o.num_tokens > 1
        ),
        "e2e_s": percentiles(o.last_at - o.sent_at for o in done),
        "longest_gap_s": percentiles(o.longest_gap_s for o in history.outcomes if o.num_tokens > 1),
        "recoveries": sum(outcome.num_recoveries for outcome in history.outcomes),
        "recovered_requests": sum(outcome.num_recoveries > 0 for outcome in history.outcomes),
        "hand_offs": {
            "done": history.hand_offs.num_done,
            "stayed": history.hand_offs.num_stayed,
            "failed": history.hand_offs.num_failed,
            "bytes": history.hand_offs.num_bytes,
            "saved_bytes": history.hand_offs.num_saved_bytes,
            "present_blocks": history.hand_offs.num_present_blocks,
            "present_bytes": history.hand_offs.num_present_bytes,
            "seconds": _rounded(history.hand_offs.seconds),
        },
        "stages": _stages(history, elapsed_s),
        "marks": [
            {"at_s": _rounded(mark.at_s - history.start_s), "kind": mark.kind, "text": mark.text}
            for mark in history.record.marks
        ],
    }


def to_json(found: dict[str, Any]) -> str:
    """A summary as text, the same for the same simulation."""
    return json.dumps(found, indent=1) + "\n"


def percentiles(values: Iterable[float]) -> dict[str, float]:
    """The least value that so many in a hundred do not exceed, and the largest; none of none.

    Example:
        >>> percentiles([4.0, 1.0, 3.0, 2.0])
        {'p50': 2.0, 'p90': 4.0, 'p99': 4.0, 'max': 4.0}
    """
    ordered = sorted(values)
    if not ordered:
        return {}
    ranks = {f"p{share}": -(-share * len(ordered) // 100) - 1 for share in SHARES}
    found = {name: ordered[rank] for name, rank in ranks.items()} | {"max": ordered[-1]}
    return {name: _rounded(value) for name, value in found.items()}


def show(found: dict[str, Any], console: Console) -> None:
    """Print a summary for a person."""
    requests, rates = found["requests"], found["throughput"]
    failed = ", ".join(f"{kind} {count}" for kind, count in requests["failed"].items())
    lines = [
        f"requests   {requests['done']} done, {requests['num_failed']} failed"
        + (f" ({failed})" if failed else "")
        + f", {requests['wrong']} wrong of {requests['checked']} checked",
        f"throughput {rates['requests_per_s']:.2f} requests/s, "
        f"{rates['prompt_tokens_per_s']:.0f} prompt and {rates['output_tokens_per_s']:.0f} "
        f"output tokens/s over {found['elapsed_s']:.0f} s",
        f"steady     {rates['steady_output_tokens_per_s']:.0f} output tokens/s in the second half "
        "of the time in which requests came",
        f"recoveries {found['recoveries']} of {found['recovered_requests']} requests",
    ]
    if any((hand_offs := found["hand_offs"]).values()):
        lines.append(
            f"hand-offs  {hand_offs['done']} done, {hand_offs['stayed']} found no room, "
            f"{hand_offs['failed']} failed; {hand_offs['bytes'] / 1e6:.1f} MB of KV, "
            f"{hand_offs['saved_bytes'] / 1e6:.1f} MB saved"
        )
    for line in lines:
        console.print(line, highlight=False, markup=False, emoji=False)
    console.print(_times_table(found))
    console.print(_stage_table(found["stages"]))
    for mark in found["marks"]:
        line = f"{mark['at_s']:10.2f} s  {mark['kind']:7} {mark['text']}"
        console.print(line, highlight=False, markup=False, emoji=False)


def _requests(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    failed = Counter(outcome.ended for outcome in outcomes if not outcome.is_done)
    return {
        "sent": len(outcomes),
        "done": len(outcomes) - failed.total(),
        "num_failed": failed.total(),
        "failed": dict(sorted(failed.items())),
        "wrong": sum(outcome.is_right is False or not outcome.is_whole for outcome in outcomes),
        "checked": sum(outcome.is_right is not None for outcome in outcomes),
    }


def _stages(history: History, elapsed_s: float) -> list[dict[str, Any]]:
    record = history.record
    places = sorted(record.places.items(), key=lambda item: _order(item[1].stage))
    return [
        {
            "stage": place.stage,
            "worker": worker,
            "device": place.device.partition(":")[0],
            "layers": [place.start, place.end],
            "steps": record.rows[worker].num_steps,
            "tokens": record.rows[worker].num_tokens,
            "idle": _rounded(1 - record.rows[worker].busy_s / elapsed_s),
        }
        for worker, place in places
    ]


def _order(stage: str) -> tuple[int, ...]:
    return tuple(int(part) for part in stage.split("."))


def _times_table(found: dict[str, Any]) -> Table:
    table = Table("seconds", *(f"p{share}" for share in SHARES), "max")
    for key, label in (
        ("ttft_s", "to first token"),
        ("tpot_s", "per token after"),
        ("e2e_s", "to the end"),
        ("longest_gap_s", "longest gap"),
    ):
        table.add_row(label, *(f"{value:.3f}" for value in found[key].values()))
    return table


def _stage_table(stages: Sequence[dict[str, Any]]) -> Table:
    table = Table("stage", "worker", "device", "layers", "steps", "tokens", "idle")
    for stage in stages:
        start, end = stage["layers"]
        counts = (str(stage["steps"]), str(stage["tokens"]), f"{stage['idle']:.0%}")
        table.add_row(stage["stage"], stage["worker"], stage["device"], f"{start}:{end}", *counts)
    return table


def _per_s(count: float, elapsed_s: float) -> float:
    return _rounded(count / elapsed_s)


def _rounded(value: float) -> float:
    return round(value, DIGITS)
