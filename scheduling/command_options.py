"""What may be typed after `python -m scheduling.plan`: parsers, and the types of their values.

The one idea: a number out of reach is refused where it is typed, with what was expected; argparse
then ends with 2. What takes more than the word itself to judge is judged in `command_problem`.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

from scheduling.goal import MEASURES
from scheduling.planner import SOLVERS

DEFAULT_TIME_S = 10.0
_LEAST, _MOST = 1e-6, 1e12


def plan_parser(description: str | None) -> argparse.ArgumentParser:
    """Of the command that plans."""
    parser = argparse.ArgumentParser(
        prog="python -m scheduling.plan",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_problem(parser)
    parser.add_argument("--solver", choices=["auto", *SOLVERS], default="auto")
    _add_search(parser)
    parser.add_argument("--seed", type=whole(0), default=0, help="of all chance (default 0)")
    parser.add_argument("--plot", type=Path, metavar="F", help="draw the plan, as .svg or .png")
    return parser


def explain_parser() -> argparse.ArgumentParser:
    """Of the command that compares two plans."""
    parser = argparse.ArgumentParser(prog="python -m scheduling.plan explain")
    parser.add_argument("one", type=Path, metavar="A.json")
    parser.add_argument("other", type=Path, metavar="B.json")
    _add_problem(parser)
    return parser


def rent_parser() -> argparse.ArgumentParser:
    """Of the command that chooses what to rent."""
    parser = argparse.ArgumentParser(prog="python -m scheduling.plan --rent CATALOGUE.toml")
    parser.add_argument("--rent", type=Path, required=True, metavar="CATALOGUE.toml")
    parser.add_argument(
        "--budget", type=positive, required=True, metavar="$/h", help="what it may cost"
    )
    parser.add_argument(
        "--model", help="a known model, or a config.json; what is rented is then planned on as well"
    )
    _add_max_tp(parser)
    _add_search(parser)
    return parser


def positive(text: str) -> float:
    """A number above 0, of a size that means something.

    Raises:
        argparse.ArgumentTypeError: it is another, or none.
    """
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not _LEAST <= value <= _MOST:
        raise argparse.ArgumentTypeError(
            f"expected a number above 0, from {_LEAST:g} to {_MOST:g}, got {text[:40]!r}"
        )
    return value


def whole(least: int) -> Callable[[str], int]:
    """A type for whole numbers from `least` on."""

    def read(text: str) -> int:
        is_number = text.isascii() and text.isdigit() and len(text) < 10
        if not is_number or int(text) < least:
            raise argparse.ArgumentTypeError(
                f"expected a whole number from {least} to 999999999, got {text[:40]!r}"
            )
        return int(text)

    return read


def latencies(text: str) -> dict[str, float]:
    """`ttft=S,tpot=S`, or one of them.

    Raises:
        argparse.ArgumentTypeError: it is of another form.
    """
    found: dict[str, float] = {}
    for part in text.split(","):
        name, _, value = part.partition("=")
        if name not in ("ttft", "tpot") or name in found:
            raise argparse.ArgumentTypeError(
                f"expected ttft=S,tpot=S or one of them, got {text[:40]!r}"
            )
        found[name] = positive(value)
    return found


def _add_search(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--time",
        type=positive,
        default=DEFAULT_TIME_S,
        metavar="S",
        help=f"seconds to search (default {DEFAULT_TIME_S:g})",
    )
    parser.add_argument("--json", type=Path, metavar="F", help="write the plan to a file")


def _add_max_tp(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--max-tp",
        type=whole(1),
        default=1,
        help="devices of a node that one stage may use (default 1)",
    )


def _add_problem(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("cluster", type=Path, metavar="CLUSTER.toml")
    parser.add_argument("--model", help="a known model, or a config.json (default: the cluster's)")
    parser.add_argument(
        "--workload",
        default="conversation",
        help="conversation, code, IN:OUT tokens, a trace.csv, or load: the cluster file's own",
    )
    parser.add_argument("--rate", type=positive, help="requests a second to be served")
    parser.add_argument("--objective", choices=MEASURES, default="throughput")
    parser.add_argument("--budget", type=positive, metavar="$/h", help="what nodes may cost")
    parser.add_argument(
        "--slo",
        type=latencies,
        default={},
        metavar="ttft=S,tpot=S",
        help="latencies to keep, with --objective slo",
    )
    _add_max_tp(parser)
    parser.add_argument(
        "--disaggregate", action="store_true", help="let pipelines serve prefill or decode alone"
    )
