"""A real service for a benchmark: started by its own command, stopped by a signal."""

import contextlib
import json
import re
import signal
import subprocess
import sys
import threading
import urllib.request
from collections import deque
from collections.abc import Iterator
from queue import Empty, Queue
from typing import Any

START_TIMEOUT_S = 300.0
STOP_TIMEOUT_S = 15.0
READ_TIMEOUT_S = 30.0


@contextlib.contextmanager
def running_service(*arguments: str) -> Iterator[str]:
    """Launch with these arguments, give the service's URL once it is ready, stop it after."""
    process = subprocess.Popen(
        [sys.executable, "-m", "runtime.launch", "--port", "0", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    lines: deque[str] = deque(maxlen=20)
    ready: Queue[str] = Queue(maxsize=8)
    reader = threading.Thread(target=_read, args=(process, lines, ready), daemon=True)
    reader.start()
    try:
        yield _wait_ready(ready, lines)
    finally:
        _stop(process)
        reader.join(STOP_TIMEOUT_S)
        if process.stdout is not None:
            process.stdout.close()


def _stop(process: "subprocess.Popen[str]") -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(STOP_TIMEOUT_S)


def _read(process: "subprocess.Popen[str]", lines: deque[str], ready: "Queue[str]") -> None:
    assert process.stdout is not None
    is_ready = False
    for line in process.stdout:
        lines.append(line)
        if not is_ready and (found := re.match(r"ready (\S+) ", line)):
            is_ready = True
            ready.put(found[1])
    if not is_ready:
        ready.put("")


def _wait_ready(ready: "Queue[str]", lines: deque[str]) -> str:
    with contextlib.suppress(Empty):
        if url := ready.get(timeout=START_TIMEOUT_S):
            return url
    raise SystemExit("the service did not start:\n" + "".join(lines))


def get_json(url: str) -> dict[str, Any]:
    """GET a JSON object of the service."""
    with urllib.request.urlopen(url, timeout=READ_TIMEOUT_S) as answer:
        found: dict[str, Any] = json.loads(answer.read())
    return found


def stages_of(url: str) -> list[dict[str, Any]]:
    """Every stage of every pipeline, as `/admin/status` shows them."""
    return [
        stage for pipeline in get_json(f"{url}/admin/status")["pipelines"]
        for stage in pipeline["stages"]
    ]  # fmt: skip
