"""Streams that are struck in the middle, read from the socket itself.

HTTP's own mark of a whole body is what a cut stream must lack, and a client library would hide it.
"""

import json
import os
import signal
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.services import Client

LONG = {"model": "demo", "prompt": "The", "max_tokens": 900, "temperature": 0, "ignore_eos": True}
STRUCK = {**LONG, "max_tokens": 48}
"""Long enough to be struck in the middle, short enough to be read to its end."""
STRIKE_AT_EVENT = 5
END_OF_BODY = b"0\r\n\r\n"
OUTAGE_S = 2.0
"""How long a frozen process stays so: well beyond the silence that tells of a loss."""


@dataclass(frozen=True, slots=True)
class Struck:
    """What a client saw of a stream: its lines, and whether the body was cut off."""

    lines: list[str]
    is_cut: bool

    def error(self) -> dict[str, Any]:
        """What the error event says."""
        data = self.lines[self.lines.index("event: error") + 1]
        found: dict[str, Any] = json.loads(data.removeprefix("data: "))["error"]
        return found

    @property
    def is_whole(self) -> bool:
        """Whether it ended as a stream does that was never disturbed."""
        return "data: [DONE]" in self.lines and "event: error" not in self.lines

    @property
    def text(self) -> str:
        """All that it says."""
        events = [json.loads(x[6:]) for x in self.lines if x.startswith('data: {"id"')]
        return "".join(choice["text"] for event in events for choice in event["choices"])


def strike_in_mid_stream(
    client: Client,
    strike: Callable[[], None],
    silence_s: float = 60.0,
    body: dict[str, Any] | None = None,
) -> Struck:
    """Read a stream to its end, striking at its fifth event; no read may last `silence_s`."""
    received, num_events = b"", 0
    with post_raw(client, {**(body or STRUCK), "stream": True}) as connection:
        connection.settimeout(silence_s)
        while not received.endswith(END_OF_BODY) and (data := _receive(connection)):
            received += data
            before, num_events = num_events, received.count(b"data: {")
            if before < STRIKE_AT_EVENT <= num_events:
                strike()
    lines = [line.strip() for line in received.decode().splitlines()]
    return Struck(lines, not received.endswith(END_OF_BODY))


def _receive(connection: socket.socket) -> bytes:
    """What comes next; nothing if the other end is gone, in whatever way."""
    try:
        return connection.recv(65536)
    except ConnectionResetError:
        return b""


def post_raw(client: Client, body: dict[str, Any]) -> socket.socket:
    """A connection on which a completion was asked for."""
    host, port = client.url.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)))
    data = json.dumps(body).encode()
    connection.sendall(
        b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        b"content-length: %d\r\n\r\n" % len(data) + data
    )
    return connection


def freeze(pid: int) -> None:
    """Stop a process and, in a while, have it go on, unless somebody ended it."""
    os.kill(pid, signal.SIGSTOP)
    threading.Timer(OUTAGE_S, thaw, [pid]).start()


def thaw(pid: int) -> None:
    """Have a stopped process go on, if it is still there."""
    try:
        os.kill(pid, signal.SIGCONT)
    except ProcessLookupError:
        return


def is_frozen(pid: int) -> bool:
    """Whether a process is stopped."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] == "T"


def kill(pid: int) -> None:
    """End a process without a word to anybody."""
    os.kill(pid, signal.SIGKILL)
