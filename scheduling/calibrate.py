"""`python -m scheduling.calibrate STEPS.json`: what devices reach, fitted to saved steps.

    python -m runtime.calibrate --save steps.json
    python -m scheduling.calibrate steps.json
    python -m scheduling.calibrate monday.json tuesday.json > devices.toml

Files are what `runtime.calibrate --save` or `GET /admin/steps` wrote; those of several services
of one model may be given together. Prints each kind of device as `[devices.NAME]` of a cluster
file, with the error that is left. `runtime.calibrate` does the same for a service that runs.
"""

import argparse
import sys
from pathlib import Path

from scheduling.calibration_report import report
from scheduling.steps_file import ToldSteps, read_steps, together


def main(arguments: list[str] | None = None) -> int:
    """Fit and print; 0 if one kind or more could be fitted, 1 with a sentence if none could."""
    options = _parser().parse_args(arguments)
    try:
        lines = list(report(together(_read(path) for path in options.steps)))
    except (ValueError, OSError) as error:
        sys.stderr.write(f"error: {' '.join(str(error).split())}\n")
        return 1
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    return 0


def _read(path: Path) -> ToldSteps:
    try:
        return read_steps(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m scheduling.calibrate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("steps", nargs="+", type=Path, metavar="STEPS.json", help="saved steps")
    return parser


if __name__ == "__main__":
    sys.exit(main())
