import os
import resource
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runtime.journal import MAX_SNAPSHOTS, MAX_STATE_BYTES, Journal, JournalError
from tests.support.services import CHECKOUT

ANOTHER_PROCESS = """
import os, sys
from pathlib import Path
from runtime.journal import Journal
journal = Journal.open(Path(sys.argv[1]))
for number in range(3):
    journal.save(b"state %d" % number)
print("saved", flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal"


@pytest.fixture
def journal(path: Path) -> Iterator[Journal]:
    with closing(Journal.open(path)) as opened:
        yield opened


def reopened(path: Path) -> bytes | None:
    """What the next life of a coordinator finds."""
    with closing(Journal.open(path)) as journal:
        return journal.load()


@contextmanager
def no_file_over(num_bytes: int) -> Iterator[None]:
    """Make every file of this process as good as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def change(path: Path, *statements: str) -> None:
    """Do to a closed journal what only its enemies would."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for statement in statements:
            connection.execute(statement)


def test_a_new_journal_holds_nothing(journal: Journal) -> None:
    assert journal.load() is None


def test_what_was_saved_last_is_found_in_this_life_and_the_next(
    journal: Journal, path: Path
) -> None:
    for state in (b"one", b"two"):
        journal.save(state)
    assert journal.load() == b"two"
    journal.close()
    assert reopened(path) == b"two"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
@given(lives=st.lists(st.lists(st.binary(max_size=2000), max_size=5), min_size=1, max_size=4))
def test_any_states_over_any_lives_leave_the_last_one(
    lives: list[list[bytes]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("lives") / "journal"
    expected = None
    for states in lives:
        with closing(Journal.open(path)) as journal:
            assert journal.load() == expected
            for state in states:
                journal.save(state)
                expected = state
                assert journal.load() == expected


def test_only_the_last_snapshots_are_kept_and_their_numbers_go_on(path: Path) -> None:
    for _ in range(2):
        with closing(Journal.open(path)) as journal:
            for number in range(MAX_SNAPSHOTS):
                journal.save(b"%d" % number)
    with closing(sqlite3.connect(path)) as connection:
        numbers = [row[0] for row in connection.execute("SELECT number FROM snapshots")]
    assert sorted(numbers) == list(range(MAX_SNAPSHOTS + 1, 2 * MAX_SNAPSHOTS + 1))


def test_a_killed_process_loses_nothing_it_saved_and_lets_go_of_the_file(path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", ANOTHER_PROCESS, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=CHECKOUT,
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"saved\n"
        with pytest.raises(JournalError, match=r"journal .* cannot be used: .*locked"):
            Journal.open(path)
        os.kill(other.pid, signal.SIGKILL)
        assert other.wait(30) == -signal.SIGKILL
    assert reopened(path) == b"state 2"


def test_a_closed_journal_leaves_one_file_and_takes_no_more(journal: Journal, path: Path) -> None:
    journal.save(b"state")
    journal.close()
    journal.close()
    assert list(path.parent.iterdir()) == [path]
    with pytest.raises(JournalError, match="closed database"):
        journal.save(b"more")


@pytest.mark.parametrize("content", [b"no database at all " * 100, b"SQLite format 3\0" * 64])
def test_a_file_of_another_kind_is_refused_and_left_alone(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(JournalError, match=rf"journal {path} is damaged"):
        Journal.open(path)
    assert path.read_bytes() == content


def test_a_database_of_somebody_else_is_refused(path: Path) -> None:
    change(path, "CREATE TABLE theirs (x)")
    with pytest.raises(JournalError, match="expected a journal of ours, got another database"):
        Journal.open(path)


def test_another_version_is_refused_with_both_numbers(journal: Journal, path: Path) -> None:
    journal.close()
    change(path, "PRAGMA user_version = 7")
    with pytest.raises(JournalError, match="expected version 1, got 7"):
        Journal.open(path)


def test_a_place_where_no_file_can_be_is_named(tmp_path: Path) -> None:
    with pytest.raises(JournalError, match=r"journal .*/absent/journal cannot be used: unable"):
        Journal.open(tmp_path / "absent" / "journal")


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        ("UPDATE snapshots SET state = x'00'", "snapshot 1 is not as it was saved"),
        ("UPDATE snapshots SET state = 'text'", "damaged: Expected `bytes`, got `str`"),
        ("UPDATE snapshots SET digest = x'00'", "damaged: Expected `bytes` of length >= 16"),
        ("UPDATE snapshots SET number = 0", "damaged: Expected `int` >= 1"),
        ("DROP TABLE snapshots", "no such table"),
    ],
)
def test_a_snapshot_that_was_changed_is_refused(
    journal: Journal, path: Path, damage: str, complaint: str
) -> None:
    journal.save(b"state")
    journal.close()
    change(path, damage)
    with pytest.raises(JournalError, match=complaint):
        reopened(path)


def test_a_damaged_page_is_refused(journal: Journal, path: Path) -> None:
    for number in range(MAX_SNAPSHOTS):
        journal.save(b"%d" % number * 1000)
    journal.close()
    content = bytearray(path.read_bytes())
    for page in range(1, len(content) // 4096):
        content[page * 4096 : page * 4096 + 16] = b"\xff" * 16
    path.write_bytes(content)
    with pytest.raises(JournalError, match="damaged"):
        reopened(path)


def test_a_state_beyond_the_bound_is_refused(journal: Journal) -> None:
    with pytest.raises(JournalError, match=f"a state of {MAX_STATE_BYTES + 1} bytes"):
        journal.save(bytes(MAX_STATE_BYTES + 1))


def test_a_save_for_which_there_is_no_room_leaves_the_state_of_before(
    journal: Journal, path: Path
) -> None:
    journal.save(b"before")
    with no_file_over(64 << 10), pytest.raises(JournalError, match=rf"journal {path} cannot be"):
        journal.save(bytes(1 << 20))
    assert journal.load() == b"before"
    journal.save(b"after")
    journal.close()
    assert reopened(path) == b"after"
