"""Values of command-line options, checked before anybody is asked anything."""

import argparse
import math

MAX_TIME = 86400.0


def time(text: str) -> float:
    """A time above 0; in seconds it is a day at most."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value <= MAX_TIME:
        raise argparse.ArgumentTypeError(f"expected a number above 0, got {text!r}")
    return value


def count(text: str) -> int:
    """A whole number above 0."""
    if not (text.isascii() and text.isdigit() and len(text) < 10 and int(text) > 0):
        raise argparse.ArgumentTypeError(f"expected a whole number above 0, got {text!r}")
    return int(text)


def two_ends(text: str) -> tuple[str, str]:
    """Two names with a bar between them."""
    first, bar, second = text.partition("|")
    if not (first and bar and second) or "|" in second or first == second:
        raise argparse.ArgumentTypeError(f"expected two names as A|B, got {text!r}")
    return first, second


def route(text: str) -> tuple[str, str, float]:
    """From which pipeline to which requests are handed off, and with what weight."""
    ends, equals, weight = text.rpartition("=")
    first, colon, second = ends.partition(":")
    try:
        value = float(weight)
    except ValueError:
        value = math.nan
    if not (equals and colon and first and second and 0 < value < math.inf):
        raise argparse.ArgumentTypeError(
            f"expected FROM:TO=WEIGHT with a weight above 0, as in 0:1=0.5, got {text!r}"
        )
    return first, second, value
