"""Real services of real processes, for the tests that need one."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

START_TIMEOUT_S = 100.0
STOP_TIMEOUT_S = 30.0
"""The machine may have much else to do; a launcher itself gives its children 10 s."""
SHARED_MEMORY = "/dev/shm/"
CHECKOUT = Path(__file__).parents[2]


@dataclass
class Launched:
    """A launcher process and the lines it has written."""

    process: "subprocess.Popen[str]"
    lines: list[str] = field(default_factory=list)
    changed: threading.Condition = field(default_factory=threading.Condition)

    def read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self.changed:
                self.lines.append(line.rstrip())
                self.changed.notify_all()
        with self.changed:
            self.lines.append("<end>")
            self.changed.notify_all()

    def wait_line(self, pattern: str, timeout_s: float = START_TIMEOUT_S) -> "re.Match[str]":
        """The first line that matches; fails with all lines if the output ends or none comes."""

        def found() -> "re.Match[str] | None":
            return next((m for line in self.lines if (m := re.search(pattern, line))), None)

        with self.changed:
            self.changed.wait_for(lambda: found() or "<end>" in self.lines, timeout_s)
            match = found()
        assert match is not None, f"no line matches {pattern!r}:\n" + "\n".join(self.lines[-40:])
        return match

    def shared_files(self) -> set[Path]:
        """What its processes have open or mapped in shared memory."""
        pids = {self.process.pid, *descendants(self.process.pid)}
        return {Path(name) for pid in pids for name in _open_files(pid) if SHARED_MEMORY in name}

    def store(self) -> Path:
        """Where it keeps weights in shared memory."""
        (owner,) = (file for file in self.shared_files() if file.name == "owner")
        return owner.parent

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(STOP_TIMEOUT_S)


@contextlib.contextmanager
def launched(*arguments: str) -> Iterator[Launched]:
    process = subprocess.Popen(
        [sys.executable, "-m", "runtime.launch", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=CHECKOUT,
        start_new_session=True,
    )
    running = Launched(process)
    reader = threading.Thread(target=running.read)
    reader.start()
    try:
        yield running
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        reader.join()
        assert process.stdout is not None
        process.stdout.close()


class Client:
    """A plain HTTP client of one service."""

    def __init__(self, url: str) -> None:
        self.url = url

    def get(self, path: str) -> tuple[int, Any]:
        return self._call(urllib.request.Request(self.url + path))

    def post(self, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        return self._call(self._request(path, body))

    def complete(self, prompt: Any, **parameters: Any) -> dict[str, Any]:
        body = {"model": "demo", "prompt": prompt, "temperature": 0, **parameters}
        status, answer = self.post("/v1/completions", body)
        assert status == 200, answer
        found: dict[str, Any] = answer
        return found

    def stream(self, path: str, body: dict[str, Any]) -> Iterator[str]:
        """The lines of a streamed answer, as they come."""
        request = self._request(path, {**body, "stream": True})
        with urllib.request.urlopen(request, timeout=60) as answer:
            for raw in answer:
                yield raw.decode().rstrip()

    def stages(self) -> list[dict[str, Any]]:
        _, status = self.get("/admin/status")
        return [stage for pipeline in status["pipelines"] for stage in pipeline["stages"]]

    def wait_until(self, condition: Callable[[], bool], timeout_s: float = 60.0) -> None:
        """Poll until a condition of the service holds; the deadline is the test's failure."""
        end = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < end, self.get("/admin/status")
            threading.Event().wait(0.05)

    def _request(self, path: str, body: dict[str, Any]) -> urllib.request.Request:
        return urllib.request.Request(
            self.url + path, json.dumps(body).encode(), {"content-type": "application/json"}
        )

    def _call(self, request: urllib.request.Request) -> tuple[int, Any]:
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, json.loads(answer.read())
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.loads(error.read())


@contextlib.contextmanager
def service(*arguments: str) -> Iterator[tuple[Client, Launched]]:
    with launched("--port", "0", *arguments) as running:
        ready = running.wait_line(r"^ready (http://\S+) ")
        yield Client(ready[1]), running


def descendants(pid: int) -> set[int]:
    """All processes below one, by the kernel's own table."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                children.setdefault(int(fields[1]), []).append(int(entry.name))
    found: set[int] = set()
    todo = [pid]
    while todo:
        for child in children.get(todo.pop(), []):
            found.add(child)
            todo.append(child)
    return found


def _open_files(pid: int) -> Iterator[str]:
    process = Path(f"/proc/{pid}")
    with contextlib.suppress(OSError):  # it may end meanwhile
        for line in (process / "maps").read_text().splitlines():
            yield line.partition("/")[1] + line.partition("/")[2]
    with contextlib.suppress(OSError):
        for handle in (process / "fd").iterdir():
            yield os.readlink(handle)


def is_alive(pid: int) -> bool:
    """Whether a process runs: neither gone nor a zombie that waits for its parent."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"
