import fcntl
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from runtime import scratch
from runtime.scratch import free_space, node_directories, owned_directory
from tests.support.services import CHECKOUT

MINE = f"remuda-store-{os.getuid()}-"
HOLDER = """
import sys
from pathlib import Path
from runtime.scratch import owned_directory
with owned_directory(Path(sys.argv[1]), "launch") as place:
    print(place, flush=True)
    sys.stdin.read()
"""


def test_a_directory_is_there_until_its_block_ends_with_all_that_is_in_it(tmp_path: Path) -> None:
    with owned_directory(tmp_path, "store") as place:
        assert place.name.startswith(MINE)
        assert place.stat().st_mode & 0o777 == 0o700
        (place / "weights").write_bytes(b"w")
        assert free_space(place) > 0
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_owner_left_is_removed_and_what_has_an_owner_is_not(tmp_path: Path) -> None:
    left = tmp_path / f"{MINE}left"
    left.mkdir()
    (left / "owner").touch()
    (left / "weights").write_bytes(b"w")
    with owned_directory(tmp_path, "store") as first:
        assert not left.exists()
        with owned_directory(tmp_path, "store") as second:
            assert first.exists()
            assert second.exists()
            assert first != second


@pytest.mark.parametrize(
    "name", [f"remuda-store-{os.getuid() + 1}-x", f"remuda-landing-{os.getuid()}-x", "other"]
)
def test_what_is_not_ours_is_left_alone(name: str, tmp_path: Path) -> None:
    other = tmp_path / name
    other.mkdir()
    (other / "owner").touch()
    with owned_directory(tmp_path, "store"):
        assert other.exists()
    assert other.exists()


def test_a_link_or_a_directory_without_an_owners_file_is_not_followed(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.mkdir()
    (target / "owner").touch()
    (tmp_path / f"{MINE}link").symlink_to(target)
    (tmp_path / f"{MINE}bare").mkdir()
    with owned_directory(tmp_path, "store"):
        assert target.exists()
        assert (tmp_path / f"{MINE}bare").exists()


def test_a_directory_has_its_name_only_when_it_has_its_owner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[str]] = []
    lock = fcntl.flock

    def look(stream: int, operation: int) -> None:
        seen.append([place.name for place in tmp_path.glob(f"{MINE}*")])
        lock(stream, operation)

    monkeypatch.setattr(fcntl, "flock", look)
    with owned_directory(tmp_path, "store"):
        assert seen == [[]]


def test_without_shared_memory_both_are_on_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scratch, "SHARED_MEMORY", tmp_path / "none")
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path))
    with node_directories() as directories:
        assert directories.store.parent == directories.landing.parent == tmp_path
        assert directories.store != directories.landing


def test_the_directory_of_a_killed_launcher_goes_with_the_next_start(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=CHECKOUT,
    ) as holder:
        assert holder.stdout is not None
        place = Path(holder.stdout.readline().strip())
        with owned_directory(tmp_path, "launch"):
            assert place.exists(), "its launcher lives"
        holder.send_signal(signal.SIGKILL)
        holder.wait(30)
    assert place.exists(), "a killed process takes nothing away"
    with owned_directory(tmp_path, "launch") as mine:
        assert list(tmp_path.iterdir()) == [mine]
