"""Signals to real processes, of which only those of a service may be struck."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.chaos import processes
from runtime.control.service import CommandFailed

LIVE = "import sys; print('up', flush=True); sys.stdin.read()"
PATIENCE_S = 20.0


@contextlib.contextmanager
def process(*words: str) -> Iterator["subprocess.Popen[bytes]"]:
    """A process that lives until it is struck or the block ends."""
    with subprocess.Popen(
        [sys.executable, "-c", LIVE, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as started:
        assert started.stdout is not None
        assert started.stdout.readline() == b"up\n"
        try:
            yield started
        finally:
            started.kill()


def test_a_process_of_a_service_is_killed() -> None:
    with process(processes.MARK, "worker") as started:
        processes.send_signal(started.pid, signal.SIGKILL)
        assert started.wait(PATIENCE_S) == -signal.SIGKILL


def test_a_process_of_somebody_else_is_left_alone() -> None:
    with process("something else") as started:
        with pytest.raises(CommandFailed, match=f"process {started.pid} is no process of a serv"):
            processes.send_signal(started.pid, signal.SIGKILL)
        assert started.poll() is None


def test_a_process_that_is_over_is_not_signalled() -> None:
    with process(processes.MARK) as started:
        started.kill()
        started.wait(PATIENCE_S)
        with pytest.raises(CommandFailed, match="no process of a service"):
            processes.send_signal(started.pid, signal.SIGKILL)


def test_a_signal_that_the_system_refuses_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(pid: int, number: int) -> None:
        raise PermissionError(1, "Operation not permitted")

    with process(processes.MARK) as started, monkeypatch.context() as patched:
        patched.setattr(os, "kill", refuse)
        with pytest.raises(CommandFailed, match="Operation not permitted"):
            processes.send_signal(started.pid, signal.SIGSTOP)


def test_where_there_are_no_files_about_processes_ps_is_asked(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(processes, "PROC", tmp_path)
    with process(processes.MARK, "worker") as started:
        assert processes.command_line(started.pid).endswith(f"{processes.MARK} worker")
    assert processes.command_line(started.pid) == ""


def test_without_ps_nothing_is_known_and_so_nothing_is_struck(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PATH", "")
    assert processes.ask_ps(os.getpid()) == ""


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_loopback_is_this_machine(host: str) -> None:
    await processes.require_here(host)


@pytest.mark.parametrize("host", ["192.0.2.1", "no.such.host.invalid", "a..b", "127.0.0.1 x"])
async def test_other_machines_and_unknown_ones_are_refused(host: str) -> None:
    with pytest.raises(CommandFailed, match="is not on this machine"):
        await processes.require_here(host)


async def test_a_name_that_is_not_resolved_in_time_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise TimeoutError

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    with pytest.raises(CommandFailed, match="is not on this machine"):
        await processes.require_here("localhost")
