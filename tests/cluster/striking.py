"""Streams that are struck in the middle, read from the socket itself.

HTTP's own mark of a whole body is what a cut stream must lack, and a client library would hide it.
"""

import json
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tests.support.services import Client

LONG = {"model": "demo", "prompt": "The", "max_tokens": 900, "temperature": 0, "ignore_eos": True}
STRIKE_AT_EVENT = 5


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


def strike_in_mid_stream(
    client: Client, strike: Callable[[], None], silence_s: float = 30.0
) -> Struck:
    """Read a stream to its end, striking at its fifth event; no read may last `silence_s`."""
    received, num_events = b"", 0
    with post_raw(client, {**LONG, "stream": True}) as connection:
        connection.settimeout(silence_s)
        while data := connection.recv(65536):
            received += data
            before, num_events = num_events, received.count(b"data: {")
            if before < STRIKE_AT_EVENT <= num_events:
                strike()
    lines = [line.strip() for line in received.decode().splitlines()]
    return Struck(lines, not received.endswith(b"0\r\n\r\n"))


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
