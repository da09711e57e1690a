"""`python -m runtime.launch`: start a service on this machine, or add this machine to one.

Parses, checks and hands over; what a service is made of stands in `runtime.launcher`.
"""

import argparse
import asyncio
import os
import sys
import traceback

from runtime.check import check_launch
from runtime.config_file import load_config
from runtime.errors import RemudaError
from runtime.launch_options import (
    join_plan,
    make_parser,
    node_id,
    not_for_a_join,
    overrides,
    service_plan,
)
from runtime.launch_plans import local_node
from runtime.launcher import launch
from runtime.logs import FORMAT_ENV

INTERRUPTED = 130
"""What a shell expects of a command that Ctrl-C ended."""


def main(arguments: list[str] | None = None) -> int:
    """Launch, join or check; 0 after a clean stop, 1 after a failure, 2 if mistyped.

    Whatever goes wrong, the last line of the output says what it was.
    """
    parser = make_parser()
    options = parser.parse_args(arguments)
    if mixed := not_for_a_join(options):
        parser.error(f"--join takes the service as it is: {', '.join(mixed)} cannot go with it")
    try:
        _run(options)
    except KeyboardInterrupt:
        return _failed("interrupted before anything was started", INTERRUPTED)
    except RemudaError as error:
        return _failed(str(error))
    except Exception as error:  # noqa: BLE001  # our own bug: all of it, then its one line
        traceback.print_exc()
        return _failed(f"this is a bug: {_innermost(error)!r}")
    return 0


def _failed(reason: str, code: int = 1) -> int:
    sys.stdout.flush()
    sys.stderr.write(f"error: {' '.join(reason.splitlines())}\n")
    return code


def _innermost(error: Exception) -> Exception:
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error


def _run(options: argparse.Namespace) -> None:
    if options.join is not None:
        asyncio.run(launch(join_plan(options)))
        return
    config = load_config(options.config, overrides(options))
    local_node(config, node_id(options))
    report = check_launch(config)
    if options.check:
        sys.stdout.write("".join(f"{line}\n" for line in report))
    else:
        os.environ[FORMAT_ENV] = config.telemetry.log_format
        asyncio.run(launch(service_plan(options, config)))


if __name__ == "__main__":
    sys.exit(main())
