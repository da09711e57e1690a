"""`python -m runtime.process ROLE`: the registry of child processes, for whoever starts one."""

import importlib
import signal
import sys

from runtime.lifeline import die_with_parent
from runtime.logs import EXPECTED, configure_logging

ROLES = {
    "coordinator": "runtime.roles.coordinator",
    "gateway": "runtime.roles.gateway",
    "node": "runtime.roles.node",
    "worker": "runtime.roles.worker",
}


def main(arguments: list[str] | None = None) -> int:
    """Run the role named on the command line until it ends."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if len(arguments) != 1 or arguments[0] not in ROLES:
        sys.stderr.write(f"usage: python -m runtime.process {{{','.join(ROLES)}}}\n")
        return 2
    die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the launcher alone answers Ctrl-C
    configure_logging(arguments[0])
    try:
        importlib.import_module(ROLES[arguments[0]]).main()
    except (*EXPECTED, OSError) as error:
        sys.stderr.write(f"error: {error.__cause__ or error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
