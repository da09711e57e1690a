"""A launcher's folder for what lasts as long as it does, and the sweep of those that were left.

A launcher that is killed cannot take its folder away. So the folder says whose it is: a process id
and when that process began, since ids are used again. Whoever starts next takes away what
belongs to nobody any more, of the same user and marked as such; anything else is left alone.
"""

import logging
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

_log = logging.getLogger(__name__)

PREFIX = "remuda-"
OWNER = "owner.json"
MAX_OWNER_BYTES = 4096
START_FIELD = 19
"""Of the fields behind the name in `/proc/PID/stat`, the start: clock ticks since the boot."""


class Owner(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Whose a folder is; `began` is empty where the system does not tell."""

    pid: int
    began: str


@contextmanager
def scratch_folder(parent: Path | None = None) -> Iterator[Path]:
    """A new folder of this process, gone with the block; those of dead processes go first."""
    where = Path(tempfile.gettempdir()) if parent is None else parent
    for left in sweep(where):
        _log.info("took away what a dead launcher left folder=%s", left)
    with tempfile.TemporaryDirectory(prefix=PREFIX, dir=where) as made:
        folder = Path(made)
        owner = Owner(pid=os.getpid(), began=process_start(os.getpid()))
        (folder / OWNER).write_bytes(msgspec.json.encode(owner))
        yield folder


def sweep(where: Path) -> list[Path]:
    """Take away the folders of launchers that are dead; which they were."""
    left = [folder for folder in sorted(where.glob(f"{PREFIX}*")) if _is_left(folder)]
    for folder in left:
        shutil.rmtree(folder, ignore_errors=True)  # another launcher may sweep at the same time
    return left


def _is_left(folder: Path) -> bool:
    owner = _owner_of(folder)
    return owner is not None and not is_same_process(owner)


def _owner_of(folder: Path) -> Owner | None:
    """Whose it is; None of what is no folder of this user, or does not say it."""
    try:
        facts = folder.lstat()
        if not stat.S_ISDIR(facts.st_mode) or facts.st_uid != os.getuid():
            return None
        with (folder / OWNER).open("rb") as file:
            return msgspec.json.decode(file.read(MAX_OWNER_BYTES), type=Owner)
    except (OSError, msgspec.MsgspecError):
        return None


def is_same_process(owner: Owner) -> bool:
    """Whether that very process lives; where its start is not known, any of its id counts."""
    try:
        os.kill(owner.pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # somebody else's process has the id now
        return False
    began = process_start(owner.pid)
    return not owner.began or not began or began == owner.began


def process_start(pid: int) -> str:
    """When a process began, in words that tell it from any other of its id; empty if unknown."""
    try:
        facts = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""
    return f"{boot}:{facts.rpartition(')')[2].split()[START_FIELD]}"
