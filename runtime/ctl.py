"""`python -m runtime.ctl`: how a running service stands, and orders to it while it serves."""

import argparse
import os
import ssl
import sys

from rich.console import Console

from runtime.control import change, chaos_options, plan, requests, status
from runtime.control.service import CommandFailed, Service

KEY_ENV = "REMUDA_ADMIN_KEY"
"""Not an option: arguments can be read by every user of a machine."""
DEFAULT_URL = "http://127.0.0.1:8000"
EPILOG = f"A service with API keys wants one with the scope `admin` in {KEY_ENV}."
PIPE_WIDTH = 240
INTERRUPTED = 130
"""What a shell expects of a command that Ctrl-C ended."""


def main(arguments: list[str] | None = None) -> int:
    """Run one control command; 0 if it worked, 1 if not, 2 if it was mistyped.

    Whatever goes wrong, the last line of the output says what it was.
    """
    options = _parser().parse_args(arguments)
    try:
        options.run(options, _service(options), _console())
    except CommandFailed as error:
        return _failed(str(error), 1)
    except KeyboardInterrupt:
        return _failed("interrupted; what was ordered may go on: see `status`", INTERRUPTED)
    return 0


def _service(options: argparse.Namespace) -> Service:
    """The service, with the key of the environment and whom it trusts."""
    tls = None
    if options.ca is not None:
        try:
            tls = ssl.create_default_context(cafile=options.ca)
        except OSError as error:
            raise CommandFailed(
                f"--ca: {options.ca} cannot be used: {error}; expected PEM certificates"
            ) from None
    return Service(options.url, os.environ.get(KEY_ENV, ""), tls)


def _failed(reason: str, code: int) -> int:
    sys.stdout.flush()
    sys.stderr.write(f"error: {' '.join(reason.split())}\n")
    return code


def _console() -> Console:
    """As wide as the terminal; where nobody looks, wide enough to cut no name short."""
    return Console() if sys.stdout.isatty() else Console(width=PIPE_WIDTH)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m runtime.ctl", description=__doc__, epilog=EPILOG
    )
    parser.add_argument("--url", default=DEFAULT_URL, help="the service (default: %(default)s)")
    parser.add_argument("--ca", metavar="FILE", help="roots that an https service is trusted by")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for module in (status, requests, change, plan, chaos_options):
        module.add_commands(commands)
    for command in commands.choices.values():  # it may stand behind the command as well
        command.add_argument("--url", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    sys.exit(main())
