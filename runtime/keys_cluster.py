"""`remuda keys`: create, rotate and show the keys that a cluster keeps across launches."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from runtime.cluster_keys import FILE, ClusterKeys, create_keys, load_keys, rotate_keys
from runtime.errors import RemudaError
from transport.security import key_text

EPILOG = """\
examples:
  remuda keys create ./keys                                  make them, once
  remuda launch --set security.keys=./keys --set cluster.host=10.0.0.5
  remuda keys show ./keys                                    the coordinator's public key
  remuda keys show --token ./keys                            the join token: hand it out in secret
  remuda keys rotate ./keys                                  then launch again: old tokens end
"""

ACTIONS: dict[str, Callable[[Path], ClusterKeys]] = {
    "create": create_keys,
    "rotate": rotate_keys,
    "show": load_keys,
}


def main(arguments: list[str] | None = None) -> int:
    """Run one action; 0 if it was done, 1 with a sentence if it could not be."""
    options = _parser().parse_args(arguments)
    try:
        keys = ACTIONS[options.action](options.folder)
    except RemudaError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    if options.token:
        sys.stdout.write(f"{keys.token.text}\n")
    else:
        sys.stdout.write(f"{options.folder / FILE}\n")
        sys.stdout.write(f"coordinator public key {key_text(keys.coordinator.public)}\n")
    if options.action == "rotate":
        sys.stderr.write("a running service keeps its old keys until it is launched again\n")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="remuda keys",
        description="The coordinator's key pair and the join secret of an encrypted cluster.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("action", choices=tuple(ACTIONS), help="what to do")
    add("folder", type=Path, metavar="DIR", help=f"where {FILE} is, readable by its owner alone")
    add("--token", action="store_true", help="print the join token, a secret, and nothing else")
    return parser


if __name__ == "__main__":
    sys.exit(main())
