"""`remuda COMMAND`: the console script, one name for the commands of this package."""

import importlib
import sys

COMMANDS = {
    "launch": "runtime.launch",
    "ctl": "runtime.ctl",
    "simulate": "runtime.simulate",
    "keys": "runtime.keys_cluster",
    "api-keys": "runtime.keys",
}


def main() -> int:
    """Run the command named first, with the arguments after it."""
    if len(sys.argv) < 2 or sys.argv[1] not in COMMANDS:
        wants_help = len(sys.argv) > 1 and sys.argv[1] in ("-h", "--help")
        stream = sys.stdout if wants_help else sys.stderr
        stream.write(f"usage: remuda {{{','.join(COMMANDS)}}} …   (each has its own --help)\n")
        return 0 if wants_help else 2
    module = importlib.import_module(COMMANDS[sys.argv[1]])
    return int(module.main(sys.argv[2:]))
