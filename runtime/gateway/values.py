"""Readers of single values: each takes a name and a JSON value, and returns it or refuses it.

JSON's types are held strictly: true is no number, 1.0 is no integer, NaN is nothing.
"""

import math
from collections.abc import Callable
from typing import Any

from runtime.gateway.errors import refused

Reader = Callable[[str, Any], Any]

MAX_STOPS = 4
MAX_STOP_CHARACTERS = 512


def integer(low: int, high: int) -> Reader:
    """A whole number in `[low, high]`."""

    def read(name: str, value: Any) -> int:
        if type(value) is not int or not low <= value <= high:
            raise refused(name, f"a whole number from {low} to {high}", value)
        return value

    return read


def number(low: float, high: float, *, open_low: bool = False) -> Reader:
    """A finite number in `[low, high]`, or `(low, high]`."""

    def read(name: str, value: Any) -> float:
        if type(value) not in (int, float) or not math.isfinite(value):
            raise refused(name, "a number", value)
        if not low <= value <= high or (open_low and value == low):
            bounds = f"{'over' if open_low else 'from'} {low:g} to {high:g}"
            raise refused(name, f"a number {bounds}", value)
        return float(value)

    return read


def boolean(name: str, value: Any) -> bool:
    """True or false."""
    if type(value) is not bool:
        raise refused(name, "true or false", value)
    return value


def string(name: str, value: Any) -> str:
    """A string."""
    if not isinstance(value, str):
        raise refused(name, "a string", value)
    return value


def stops(name: str, value: Any) -> tuple[str, ...]:
    """One stop string or up to four."""
    found = [value] if isinstance(value, str) else value
    if not isinstance(found, list) or not 1 <= len(found) <= MAX_STOPS:
        raise refused(name, f"a string or 1 to {MAX_STOPS} strings", value)
    for stop in found:
        if not isinstance(stop, str) or not 1 <= len(stop) <= MAX_STOP_CHARACTERS:
            raise refused(name, f"strings of 1 to {MAX_STOP_CHARACTERS} characters", stop)
    return tuple(found)


def top_k(name: str, value: Any) -> int:
    """How many tokens to choose from; -1 and 0 keep all."""
    return max(0, int(integer(-1, 1 << 30)(name, value)))


def stream_options(name: str, value: Any) -> bool:
    """Whether the usage is to come at the end of the stream."""
    if not isinstance(value, dict):
        raise refused(name, "an object", value)
    for key in value:
        if key != "include_usage":
            raise refused(f"{name}.{key}", "only include_usage here", value[key])
    return boolean(f"{name}.include_usage", value.get("include_usage", False))
