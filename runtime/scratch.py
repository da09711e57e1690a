"""Directories that live as long as their launcher: in memory and on disk, for a node's weights.

The one idea: a directory belongs to whoever has a lock on a file in it. The lock ends with its
process, however that ends and whatever its number was, so the next launcher of the same user can
tell what a killed one left, and removes it.
"""

import fcntl
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

_log = logging.getLogger(__name__)

SHARED_MEMORY = Path("/dev/shm")
_OWNER = "owner"


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeDirectories:
    """Where a node's workers keep weights: in shared memory, and on disk what comes from others."""

    store: Path
    landing: Path


@contextmanager
def node_directories() -> Iterator[NodeDirectories]:
    """Directories of one node, removed at the end; what killed launchers left is removed first.

    Where the system has no shared memory as files, the store is on disk too, and its pages are
    those of the file cache: shared all the same.
    """
    disk = Path(tempfile.gettempdir())
    memory = SHARED_MEMORY if os.access(SHARED_MEMORY, os.W_OK) else disk
    with ExitStack() as ending:
        yield NodeDirectories(
            store=ending.enter_context(owned_directory(memory, "store")),
            landing=ending.enter_context(owned_directory(disk, "landing")),
        )


@contextmanager
def owned_directory(base: Path, what: str) -> Iterator[Path]:
    """A directory below `base` that is removed at the end, or by whoever finds it without owner."""
    prefix = f"remuda-{what}-{os.getuid()}-"
    _sweep(base, prefix)
    # It gets its name when it has its owner: a sweep never sees one without.
    unowned = Path(tempfile.mkdtemp(prefix=f".{prefix}", dir=base))
    place = base / unowned.name.removeprefix(".")
    with (unowned / _OWNER).open("w") as owner:
        fcntl.flock(owner, fcntl.LOCK_EX)
        unowned.rename(place)
        try:
            yield place
        finally:
            shutil.rmtree(place, ignore_errors=True)


def free_space(directory: Path) -> int:
    """Bytes free on a directory's file system."""
    return shutil.disk_usage(directory).free


def _sweep(base: Path, prefix: str) -> None:
    for place in base.glob(f"{prefix}*"):
        if _is_left(place):
            _log.info("removing what a launcher that is gone left directory=%s", place)
            shutil.rmtree(place, ignore_errors=True)


def _is_left(place: Path) -> bool:
    if place.is_symlink() or place.stat().st_uid != os.getuid():
        return False
    with suppress(FileNotFoundError, BlockingIOError), (place / _OWNER).open("rb") as owner:
        fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    return False
