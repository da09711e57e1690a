"""From a request that is over to its spans, in plain values.

The one idea: nothing is made while tokens flow. A sequence has three spans whatever its length
(queue, prefill, decode), a stage has one for the time in which the request was at work, with what
the stage did meanwhile for all requests: they share its steps. Names follow the semantic
conventions for generative AI where they have one; ours begin with `remuda.`.

Source: OpenTelemetry semantic conventions, "Generative client AI spans" (status: development).
"""

import random
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from runtime.telemetry.events import Entry
from runtime.telemetry.facts import ServiceFacts, StageFacts
from runtime.telemetry.request_metrics import RequestClock
from runtime.telemetry.tracing.record import MAX_SEQUENCES, RequestTrace

PROVIDER = "remuda"
MAX_EVENTS = 64
TOLD = frozenset(
    {"node_left", "pipeline_state", "stage_state", "stage_placed", "swap_phase", "stages_changed"}
)
"""Events of the service that belong into the spans of the requests they happened to."""
_FIELD = re.compile(r"(\w+)=(\S+)")

Kind = Literal["server", "internal"]


@dataclass(frozen=True, slots=True)
class SpanEvent:
    """Something that happened; `at` in seconds since 1970."""

    name: str
    at: float
    attributes: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class SpanFacts:
    """One span; times in seconds since 1970."""

    name: str
    trace_id: int
    span_id: int
    parent_id: int | None
    parent_is_remote: bool = False
    state: str = ""
    kind: Kind = "internal"
    began: float
    ended: float
    attributes: dict[str, Any] = field(default_factory=dict)
    events: tuple[SpanEvent, ...] = ()
    error: str = ""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What the stages had done at a time of the loop's clock."""

    at: float
    facts: ServiceFacts


def spans_of(
    trace: RequestTrace, rng: random.Random, told: Iterable[Entry], seen: Sequence[Snapshot]
) -> list[SpanFacts]:
    """All spans of a request.

    Args:
        trace: the request.
        rng: makes ids.
        told: events of the service, of which those that fell into its time are taken.
        seen: snapshots, oldest first.
    """
    parent = trace.parent
    root = SpanFacts(
        name=f"{trace.operation} {trace.model}",
        trace_id=parent.trace_id if parent is not None else _new_id(rng, 128),
        span_id=_new_id(rng, 64),
        parent_id=parent.span_id if parent is not None else None,
        parent_is_remote=parent is not None,
        state=parent.state if parent is not None else "",
        kind="server",
        began=trace.began + trace.wall_offset_s,
        ended=trace.ended + trace.wall_offset_s,
        attributes=_attributes(trace),
        events=tuple(_events(trace, told))[:MAX_EVENTS],
        error=trace.error,
    )
    below = _Below(root, trace.wall_offset_s, rng)
    for number, clock in enumerate(trace.clocks[:MAX_SEQUENCES]):
        below.add_sequence(number, clock)
    below.add_stages(trace, seen)
    return [root, *below.spans]


def _new_id(rng: random.Random, num_bits: int) -> int:
    return rng.getrandbits(num_bits) or 1


def _attributes(trace: RequestTrace) -> dict[str, Any]:
    found = {
        "gen_ai.operation.name": trace.operation,
        "gen_ai.provider.name": PROVIDER,
        "gen_ai.request.model": trace.model,
        "gen_ai.response.model": trace.model,
        "http.request.method": "POST",
        "http.route": trace.route,
        "http.response.status_code": trace.status,
        **trace.attributes,
    }
    if trace.error:
        found["error.type"] = trace.error
    if clocks := trace.clocks:
        found["gen_ai.usage.input_tokens"] = sum(clock.num_prompt_tokens for clock in clocks)
        found["gen_ai.usage.output_tokens"] = sum(clock.num_tokens for clock in clocks)
        found["gen_ai.response.finish_reasons"] = [clock.reason for clock in clocks]
        found["remuda.sequences"] = len(clocks)
        firsts = [clock.first_token_at for clock in clocks if clock.first_token_at is not None]
        if firsts:
            found["gen_ai.response.time_to_first_chunk"] = min(firsts) - trace.began
    return found


def _events(trace: RequestTrace, told: Iterable[Entry]) -> Iterator[SpanEvent]:
    """What was said to the request, then what happened to the service while it ran."""
    for clock in trace.clocks:
        for at, note in clock.notes:
            word = note.split(maxsplit=1)[0] if note.split() else "note"
            yield SpanEvent(word, at + trace.wall_offset_s, dict(_FIELD.findall(note)))
    began, ended = trace.began + trace.wall_offset_s, trace.ended + trace.wall_offset_s
    for entry in told:
        if entry.kind in TOLD and began <= entry.at <= ended:
            yield SpanEvent(entry.kind, entry.at, _plain(entry.facts))


def _plain(facts: dict[str, Any]) -> dict[str, Any]:
    """What an attribute can hold; what is more than a value is told as text."""
    return {
        f"remuda.{name}": value if isinstance(value, str | bool | int | float) else str(value)
        for name, value in facts.items()
        if value is not None
    }


class _Below:
    """The spans under a request's own."""

    def __init__(self, root: SpanFacts, offset_s: float, rng: random.Random) -> None:
        self._root, self._offset_s, self._rng = root, offset_s, rng
        self.spans: list[SpanFacts] = []

    def add_sequence(self, number: int, clock: RequestClock) -> None:
        """Its way through the queue, its prompt and its answer, as far as it came."""
        known = {"remuda.sequence": number}
        turn, first = clock.dispatched_at, clock.first_token_at
        end = clock.ended_at
        self._add("queue", clock.began, end if turn is None else turn, known)
        if turn is not None:
            tokens = {"gen_ai.usage.input_tokens": clock.num_prompt_tokens}
            self._add("prefill", turn, end if first is None else first, known | tokens)
        if first is not None:
            tokens = {"gen_ai.usage.output_tokens": clock.num_tokens}
            self._add("decode", first, end, known | tokens)

    def add_stages(self, trace: RequestTrace, seen: Sequence[Snapshot]) -> None:
        """What every stage did while the request was at work, as far as there are snapshots."""
        turns = [clock.dispatched_at for clock in trace.clocks if clock.dispatched_at is not None]
        if not turns:
            return
        began, ended = min(turns), max(clock.ended_at for clock in trace.clocks)
        after = [snapshot for snapshot in seen if snapshot.at >= ended]
        if not after:
            return
        first, last = min(seen, key=lambda snapshot: abs(snapshot.at - began)), after[0]
        known = {(s.pipeline, s.stage): s for s in first.facts.stages}
        for stage in last.facts.stages:
            attributes = _done_between(known.get((stage.pipeline, stage.stage)), stage)
            attributes["remuda.stage.observed_s"] = last.at - first.at
            attributes |= _place(last.facts, stage)
            self._add(f"stage {stage.stage}", began, ended, attributes)

    def _add(self, name: str, began: float, ended: float, attributes: dict[str, Any]) -> None:
        span = SpanFacts(
            name=name,
            trace_id=self._root.trace_id,
            span_id=_new_id(self._rng, 64),
            parent_id=self._root.span_id,
            state=self._root.state,
            began=began + self._offset_s,
            ended=max(began, ended) + self._offset_s,
            attributes=attributes,
        )
        self.spans.append(span)


def _done_between(before: StageFacts | None, after: StageFacts) -> dict[str, Any]:
    """Steps and busy seconds; a worker that is younger than the first snapshot began at nothing."""
    is_same = before is not None and before.num_steps <= after.num_steps
    num_steps = after.num_steps - (before.num_steps if before is not None and is_same else 0)
    busy_s = after.busy_s - (before.busy_s if before is not None and is_same else 0.0)
    return {
        "remuda.pipeline": after.pipeline,
        "remuda.stage": after.stage,
        "remuda.stage.steps": num_steps,
        "remuda.stage.busy_s": busy_s,
    }


def _place(facts: ServiceFacts, stage: StageFacts) -> dict[str, Any]:
    for placed in facts.placed:
        if (placed.pipeline, placed.stage) == (stage.pipeline, stage.stage):
            return {"remuda.node": placed.node, "remuda.device": placed.device}
    return {}
