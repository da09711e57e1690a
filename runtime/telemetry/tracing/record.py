"""What a traced request leaves behind: times and plain values, and no text of anybody's."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from runtime.telemetry.request_metrics import RequestClock
from runtime.telemetry.tracing.context import Parent

MAX_SEQUENCES = 8
"""Sequences of a request that have spans of their own; of the others there are only counts."""

ASKED: Mapping[str, str] = {
    "max_tokens": "gen_ai.request.max_tokens",
    "max_completion_tokens": "gen_ai.request.max_tokens",
    "temperature": "gen_ai.request.temperature",
    "top_p": "gen_ai.request.top_p",
    "top_k": "gen_ai.request.top_k",
    "presence_penalty": "gen_ai.request.presence_penalty",
    "frequency_penalty": "gen_ai.request.frequency_penalty",
    "seed": "gen_ai.request.seed",
    "n": "gen_ai.request.choice.count",
    "stream": "gen_ai.request.stream",
}
"""Parameters that are told, by their names in the semantic conventions for generative AI."""


@dataclass(slots=True, kw_only=True)
class RequestTrace:
    """One request over HTTP, from its head to the end of its answer.

    Attributes:
        operation: `chat` or `text_completion`.
        route: the path.
        model: that it is asked of.
        parent: the caller's span, if it told one.
        began: on the clock of the loop, as all times.
        wall_offset_s: what makes seconds since 1970 of these times.
        clocks: of its sequences.
        status: of the answer; of a stream that broke, what it would have been before.
        error: a word for what went wrong, empty where nothing did.
    """

    operation: str
    route: str
    model: str
    parent: Parent | None
    began: float
    wall_offset_s: float
    attributes: dict[str, Any] = field(default_factory=dict)
    clocks: list[RequestClock] = field(default_factory=list)
    ended: float = 0.0
    status: int = 0
    error: str = ""

    def asked(self, parameters: Mapping[str, Any], answer_id: str) -> None:
        """It was understood: what it asks for, and the name of its answer."""
        for name, attribute in ASKED.items():
            if name in parameters:
                self.attributes[attribute] = parameters[name]
        self.attributes["gen_ai.response.id"] = answer_id


class Tracer(Protocol):
    """Takes note of requests."""

    def begin(self, headers: Mapping[str, str], operation: str, route: str) -> RequestTrace | None:
        """A request came; None where nobody wants to know of it."""
        ...

    def take(self, trace: RequestTrace) -> None:
        """It is over. Never waits."""
        ...


class NoTracer:
    """Takes note of nothing."""

    def begin(self, headers: Mapping[str, str], operation: str, route: str) -> RequestTrace | None:
        """Nobody wants to know."""
        return None

    def take(self, trace: RequestTrace) -> None:
        """Nothing was begun."""
