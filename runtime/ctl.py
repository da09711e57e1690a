"""`python -m runtime.ctl`: how a running service stands, and orders to it while it serves."""

import argparse
import sys

from rich.console import Console

from runtime.control import change, chaos_options, plan, requests, status
from runtime.control.service import CommandFailed, Service

DEFAULT_URL = "http://127.0.0.1:8000"
PIPE_WIDTH = 240
INTERRUPTED = 130
"""What a shell expects of a command that Ctrl-C ended."""


def main(arguments: list[str] | None = None) -> int:
    """Run one control command; 0 if it worked, 1 if not, 2 if it was mistyped.

    Whatever goes wrong, the last line of the output says what it was.
    """
    options = _parser().parse_args(arguments)
    try:
        options.run(options, Service(options.url), _console())
    except CommandFailed as error:
        return _failed(str(error), 1)
    except KeyboardInterrupt:
        return _failed("interrupted; what was ordered may go on: see `status`", INTERRUPTED)
    return 0


def _failed(reason: str, code: int) -> int:
    sys.stdout.flush()
    sys.stderr.write(f"error: {' '.join(reason.split())}\n")
    return code


def _console() -> Console:
    """As wide as the terminal; where nobody looks, wide enough to cut no name short."""
    return Console() if sys.stdout.isatty() else Console(width=PIPE_WIDTH)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m runtime.ctl", description=__doc__)
    parser.add_argument("--url", default=DEFAULT_URL, help="the service (default: %(default)s)")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for module in (status, requests, change, plan, chaos_options):
        module.add_commands(commands)
    for command in commands.choices.values():  # it may stand behind the command as well
        command.add_argument("--url", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    sys.exit(main())
