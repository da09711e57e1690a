"""Files as the planner's commands read and write them: every failure is one sentence with the path.

The one idea: what cannot be read is told before it is understood, and what could not be written is
told before any time is spent on a search.
"""

import json
import os
from pathlib import Path
from typing import Any

from scheduling.errors import SchedulingError

_MAX_BYTES = 64 * 2**20


class CommandError(SchedulingError):
    """What was typed cannot be done; the text says what was expected."""


def read_text(path: Path) -> str:
    """A text file.

    Raises:
        CommandError: it cannot be read, is no UTF-8 text, or is larger than any of ours.
    """
    try:
        size = path.stat().st_size
        if size > _MAX_BYTES:
            raise CommandError(
                f"{path}: expected a file of at most {_MAX_BYTES} bytes, got {size}; give another"
            )
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise CommandError(
            f"{path}: expected text in UTF-8, got byte {error.object[error.start]:#04x} at "
            f"{error.start}; give a text file"
        ) from None
    except (OSError, ValueError) as error:  # a path with a NUL is a ValueError
        reason = error.strerror if isinstance(error, OSError) else error
        raise CommandError(f"{path}: cannot be read: {reason}") from None


def read_json(path: Path) -> Any:
    """What a JSON file holds.

    Raises:
        CommandError: it cannot be read or is no JSON.
    """
    text = read_text(path)
    try:
        return json.loads(text)
    except RecursionError:
        raise CommandError(f"{path}: not JSON of ours: nested too deep") from None
    except ValueError as error:
        raise CommandError(f"{path}: not JSON: {error}") from None


def check_writable(option: str, path: Path | None) -> None:
    """Refuse a file that could not be written later; nothing where none is asked for.

    Raises:
        CommandError: its folder is missing or closed, or it is a folder itself.
    """
    if path is None:
        return
    target = path if path.exists() else path.parent
    if path.is_dir() or not path.parent.is_dir():
        got = "a folder" if path.is_dir() else f"no folder {path.parent}"
        raise CommandError(
            f"{option}: expected a file in a folder that is there, got {path}: {got}"
        )
    if not os.access(target, os.W_OK):
        raise CommandError(f"{option}: {path} may not be written; choose another folder or file")
