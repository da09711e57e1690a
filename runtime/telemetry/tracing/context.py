"""Whose trace a request belongs to, by the headers of W3C Trace Context.

Source: W3C Recommendation "Trace Context", section 3.2; what is malformed is ignored, as it asks.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

TRACEPARENT, TRACESTATE = "traceparent", "tracestate"
MAX_STATE_CHARACTERS = 512
_PARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_SAMPLED = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Parent:
    """The span that a caller is in; `is_sampled` says whether it is kept."""

    trace_id: int
    span_id: int
    is_sampled: bool
    state: str = ""


def read_parent(headers: Mapping[str, str]) -> Parent | None:
    """The caller's span, or None where it sent none that can be understood."""
    found = _PARENT.fullmatch(headers.get(TRACEPARENT, ""))
    if found is None:
        return None
    version, trace_id, span_id, flags, more = found.groups()
    if version == "ff" or (version == "00" and more) or not int(trace_id, 16) * int(span_id, 16):
        return None
    state = headers.get(TRACESTATE, "")
    return Parent(
        trace_id=int(trace_id, 16),
        span_id=int(span_id, 16),
        is_sampled=bool(int(flags, 16) & _SAMPLED),
        state=state if len(state) <= MAX_STATE_CHARACTERS else "",
    )
