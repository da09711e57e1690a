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
    ready: Queue[str] = Queue()
    reader = threading.Thread(target=_read, args=(process, lines, ready))
    reader.start()
    try:
        yield _wait_ready(ready, lines)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(STOP_TIMEOUT_S)
        reader.join()


def _read(process: "subprocess.Popen[str]", lines: deque[str], ready: "Queue[str]") -> None:
    assert process.stdout is not None
    for line in process.stdout:
        lines.append(line)
        if found := re.match(r"ready (\S+) ", line):
            ready.put(found[1])
    ready.put("")


def _wait_ready(ready: "Queue[str]", lines: deque[str]) -> str:
    with contextlib.suppress(Empty):
        if url := ready.get(timeout=START_TIMEOUT_S):
            return url
    raise SystemExit("the service did not start:\n" + "".join(lines))


def get_json(url: str) -> dict[str, Any]:
    """GET a JSON object of the service."""
    with urllib.request.urlopen(url, timeout=30) as answer:
        found: dict[str, Any] = json.loads(answer.read())
    return found
