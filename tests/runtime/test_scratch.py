"""A launcher's folder, and what becomes of those whose launcher was killed."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from runtime.scratch import OWNER, Owner, is_same_process, process_start, scratch_folder, sweep
from tests.support.services import CHECKOUT

HOLDER = """
import sys
from pathlib import Path
from runtime.scratch import scratch_folder
with scratch_folder(Path(sys.argv[1])) as folder:
    print(folder, flush=True)
    sys.stdin.read()
"""


def leave(where: Path, name: str, owner: Owner | bytes) -> Path:
    folder = where / name
    folder.mkdir()
    data = owner if isinstance(owner, bytes) else msgspec.json.encode(owner)
    (folder / OWNER).write_bytes(data)
    (folder / "coordinator.journal").write_text("state")
    return folder


def myself() -> Owner:
    return Owner(pid=os.getpid(), began=process_start(os.getpid()))


def test_a_folder_lasts_as_long_as_its_block(tmp_path: Path) -> None:
    with scratch_folder(tmp_path) as folder:
        assert folder.parent == tmp_path
        assert folder.name.startswith("remuda-")
        assert is_same_process(msgspec.json.decode((folder / OWNER).read_bytes(), type=Owner))
    assert list(tmp_path.iterdir()) == []


def test_the_folder_of_a_killed_launcher_goes_with_the_next_start(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=CHECKOUT,
    ) as holder:
        assert holder.stdout is not None
        folder = Path(holder.stdout.readline().strip())
        with scratch_folder(tmp_path):
            assert folder.exists(), "its launcher lives"
        holder.send_signal(signal.SIGKILL)
        holder.wait(30)
    assert folder.exists(), "a killed process takes nothing away"
    with scratch_folder(tmp_path) as mine:
        assert list(tmp_path.iterdir()) == [mine]


def test_a_process_id_that_is_used_again_is_another_process(tmp_path: Path) -> None:
    assert is_same_process(myself())
    earlier = Owner(pid=os.getpid(), began="another boot:1")
    assert not is_same_process(earlier)
    folder = leave(tmp_path, "remuda-old", earlier)
    assert sweep(tmp_path) == [folder]
    assert not folder.exists()


@pytest.mark.parametrize(
    "owner",
    [
        b"",
        b"no json",
        b'{"pid": "1", "began": ""}',
        b'{"pid": 1, "began": "", "more": 1}',
        b"[" * 9,
    ],
)
def test_a_folder_that_does_not_say_whose_it_is_is_left_alone(tmp_path: Path, owner: bytes) -> None:
    folder = leave(tmp_path, "remuda-odd", owner)
    (tmp_path / "remuda-empty").mkdir()
    assert sweep(tmp_path) == []
    assert folder.exists()


def test_what_is_not_a_launchers_is_left_alone(tmp_path: Path) -> None:
    dead = Owner(pid=2**22 + 1, began="")
    other = leave(tmp_path, "somebody-elses", dead)
    real = leave(tmp_path, "real", dead)
    (tmp_path / "remuda-link").symlink_to(real)
    (tmp_path / "remuda-file").write_text("x")
    assert sweep(tmp_path) == []
    assert other.exists()
    assert real.exists()


def test_where_no_start_is_known_a_living_id_counts_as_the_owner() -> None:
    assert is_same_process(Owner(pid=os.getpid(), began=""))
    assert process_start(2**22 + 1) == ""


@pytest.mark.parametrize("pid", [2**22 + 1, 2**70])
def test_an_id_that_nobody_has_is_of_the_dead(pid: int) -> None:
    assert not is_same_process(Owner(pid=pid, began=""))
