"""Print the whole document: `python -m runtime.gateway.openapi [--model NAME] > openapi.json`."""

import argparse
import json
import sys
from collections.abc import Sequence

from runtime.gateway.openapi.document import document
from runtime.version import package_version


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the document to standard output."""
    parser = argparse.ArgumentParser(prog="python -m runtime.gateway.openapi", description=__doc__)
    parser.add_argument("--model", default="demo", help="the served model's name")
    model: str = parser.parse_args(arguments).model
    json.dump(document(model, package_version()), sys.stdout, indent=2, ensure_ascii=False)
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
