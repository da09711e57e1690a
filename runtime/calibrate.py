"""`python -m runtime.calibrate`: what a running service's devices reach, fitted to its steps.

    python -m runtime.calibrate --url http://127.0.0.1:8000
    python -m runtime.calibrate --save steps.json

Asks for the last steps of every stage and fits, for each kind of device, the rates at which it
reads and computes and what a layer and a step cost besides. Prints them as `[devices.NAME]` of a
cluster file, with the error that is left, for `python -m scheduling.plan` and `runtime.simulate`.
Let the service work on short and long requests first: steps of one size tell nothing of another.
With --save the steps are kept as they are, for `python -m scheduling.calibrate`.
"""

import argparse
import json
import sys
from pathlib import Path

from runtime.control.service import CommandFailed, Service
from runtime.ctl import DEFAULT_URL
from scheduling.calibration_report import report
from scheduling.steps_file import ToldSteps


def main(arguments: list[str] | None = None) -> int:
    """Fit and print; 0 if one kind or more could be fitted, 1 with a sentence if none could."""
    options = _parser().parse_args(arguments)
    service = Service(options.url)
    try:
        answer = service.get("/admin/steps")
        told = service.understood(answer, ToldSteps, "what its steps took")
        if options.save is not None:
            options.save.write_text(json.dumps(answer) + "\n", encoding="utf-8")
        lines = list(report(told))
    except (CommandFailed, ValueError, OSError) as error:
        sys.stderr.write(f"error: {' '.join(str(error).split())}\n")
        return 1
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m runtime.calibrate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--url", default=DEFAULT_URL, help="the service (default: %(default)s)")
    parser.add_argument("--save", type=Path, metavar="FILE", help="keep the steps in a file, too")
    return parser


if __name__ == "__main__":
    sys.exit(main())
