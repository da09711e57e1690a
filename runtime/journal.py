"""What the coordinator must remember across its own death, in one SQLite file.

Every save appends a numbered snapshot of the whole state, so that a reader needs no other. The
write-ahead log makes a save one small append: it survives the death of the process at once, and
that of the machine up to the last checkpoint. The file is held alone for as long as it is open: a
second coordinator on it is refused, and the death of the first lets go of it. The journal never
knows what a state says; a damaged one is refused and never passed over for an older one.
"""

import hashlib
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from runtime.errors import RemudaError

APPLICATION_ID = 0x52454D55
"""Marks the file as ours, where SQLite and `file` look for it."""
SCHEMA_VERSION = 1
MAX_SNAPSHOTS = 64
MAX_STATE_BYTES = 16 << 20
BUSY_TIMEOUT_S = 0.5
DIGEST_BYTES = 16

_SETTINGS = ("locking_mode = EXCLUSIVE", "journal_mode = WAL", "synchronous = NORMAL")
"""Alone first: a write-ahead log that nobody shares needs no second file to be shared by."""
_TABLE = "CREATE TABLE snapshots (number INTEGER PRIMARY KEY, digest BLOB, state BLOB)"
_NEWEST = "SELECT number, digest, state FROM snapshots ORDER BY number DESC LIMIT 1"


class JournalError(RemudaError):
    """The journal cannot be opened, read or written; the text says which file and why."""


class Snapshot(Struct, frozen=True, array_like=True):
    """One row as it must be, whatever the file says."""

    number: Annotated[int, Meta(ge=1)]
    digest: Annotated[bytes, Meta(min_length=DIGEST_BYTES, max_length=DIGEST_BYTES)]
    state: bytes


class Journal:
    """The states of one coordinator, the newest of which `load` returns.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     journal = Journal.open(Path(directory) / "journal")
        ...     journal.save(b"plan 1")
        ...     journal.save(b"plan 2")
        ...     found = journal.load()
        ...     journal.close()
        >>> found
        b'plan 2'
    """

    def __init__(self, path: Path, connection: sqlite3.Connection, number: int) -> None:
        self._path = path
        self._connection = connection
        self._number = number

    @classmethod
    def open(cls, path: Path) -> "Journal":
        """Open the file, or make it if there is none.

        Raises:
            JournalError: it is not ours, damaged, of another version, in use or out of reach.
        """
        with _told_of(path):
            connection = sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None)
        try:
            with _told_of(path):
                return cls(path, connection, _prepare(connection, path))
        except BaseException:
            connection.close()
            raise

    def save(self, state: bytes) -> None:
        """Append a snapshot and drop those beyond the last 64.

        Raises:
            JournalError: it could not be written; the snapshots of before are as they were.
        """
        if len(state) > MAX_STATE_BYTES:
            raise JournalError(
                f"journal {self._path}: a state of {len(state)} bytes, expected at most "
                f"{MAX_STATE_BYTES}"
            )
        number = self._number + 1

        def append(connection: sqlite3.Connection) -> None:
            row = (number, _digest(state), state)
            connection.execute("INSERT INTO snapshots VALUES (?, ?, ?)", row)
            oldest = number - MAX_SNAPSHOTS
            connection.execute("DELETE FROM snapshots WHERE number <= ?", (oldest,))

        with _told_of(self._path):
            _in_one(self._connection, append)
        self._number = number

    def load(self) -> bytes | None:
        """The newest state, or None if none was ever saved.

        Raises:
            JournalError: it is not as it was saved.
        """
        with _told_of(self._path):
            newest = _newest(self._connection)
        if newest is None:
            return None
        if _digest(newest.state) != newest.digest:
            raise JournalError(
                f"journal {self._path}: snapshot {newest.number} is not as it was saved; "
                f"remove the file to start without it"
            )
        return newest.state

    def close(self) -> None:
        """Let go of the file; closing twice is no error."""
        self._connection.close()


def _prepare(connection: sqlite3.Connection, path: Path) -> int:
    """Take the file for ourselves, check that it is ours, and return its newest number."""
    for setting in _SETTINGS:
        connection.execute(f"PRAGMA {setting}")
    connection.execute("BEGIN EXCLUSIVE").execute("ROLLBACK")  # settings alone take no lock
    if _is_new(connection):
        _in_one(connection, _create)
    _refuse_others(connection, path)
    newest = _newest(connection)
    return 0 if newest is None else newest.number


def _is_new(connection: sqlite3.Connection) -> bool:
    num_objects = _number(connection, "SELECT count(*) FROM sqlite_schema")
    return num_objects == _number(connection, "PRAGMA application_id") == 0


def _create(connection: sqlite3.Connection) -> None:
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
    connection.execute(_TABLE)


def _refuse_others(connection: sqlite3.Connection, path: Path) -> None:
    if _number(connection, "PRAGMA application_id") != APPLICATION_ID:
        raise JournalError(f"journal {path}: expected a journal of ours, got another database")
    version = _number(connection, "PRAGMA user_version")
    if version != SCHEMA_VERSION:
        raise JournalError(f"journal {path}: expected version {SCHEMA_VERSION}, got {version}")
    (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    if verdict != "ok":
        raise JournalError(f"journal {path} is damaged: {verdict}")


def _number(connection: sqlite3.Connection, question: str) -> int:
    (number,) = connection.execute(question).fetchone()
    return int(number)


def _newest(connection: sqlite3.Connection) -> Snapshot | None:
    row: Any = connection.execute(_NEWEST).fetchone()
    return None if row is None else msgspec.convert(row, Snapshot, builtin_types=(bytes,))


def _digest(state: bytes) -> bytes:
    return hashlib.blake2b(state, digest_size=DIGEST_BYTES).digest()


def _in_one(connection: sqlite3.Connection, change: Callable[[sqlite3.Connection], None]) -> None:
    """Run one change in one transaction: all of it or nothing."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        change(connection)
        connection.execute("COMMIT")
    except sqlite3.Error:
        if connection.in_transaction:  # some faults roll back by themselves
            connection.execute("ROLLBACK")
        raise


@contextmanager
def _told_of(path: Path) -> Iterator[None]:
    """Tell of a fault below with the file it was in."""
    try:
        yield
    except sqlite3.OperationalError as error:
        raise JournalError(f"journal {path} cannot be used: {error}") from None
    except (sqlite3.Error, msgspec.ValidationError) as error:
        raise JournalError(f"journal {path} is damaged: {error}") from None
