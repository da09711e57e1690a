"""Two launchers join over an address that other machines reach, with encryption on."""

import os
import re
import shlex
import signal
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from runtime.errors import LaunchFailed
from runtime.network import address_towards, is_loopback
from tests.cluster.striking import strike_in_mid_stream
from tests.support.services import Client, Launched, descendants, launched
from transport.security import KeyPair, key_text

ELSEWHERE = "198.51.100.1"
GREETING = b"\xff\0\0\0\0\0\0\0\1\x7f\3\1NULL".ljust(64, b"\0")
SIGNED = 12
"""Bytes of a greeting after which the other end tells all of its own."""
MECHANISM = slice(12, 32)
"""Where ZMTP's greeting names how its sender secures the connection."""
LISTENS = "0A"


@dataclass(frozen=True)
class Encrypted:
    """The launcher of the service, the one that joined it, and the words it joined with."""

    main: Launched
    joined: Launched
    client: Client
    join: list[str]


@pytest.fixture(scope="module")
def own_address() -> str:
    try:
        address = address_towards(ELSEWHERE, 9)
    except LaunchFailed:
        pytest.skip("this machine has no way to other machines, so no address that they reach")
    if is_loopback(address) or ":" in address:
        pytest.skip("this machine has no IPv4 address but loopback")
    return address


@pytest.fixture(scope="module")
def pair(own_address: str) -> Iterator[Encrypted]:
    settings = [f"cluster.host={own_address}", "cluster.num_nodes=2", "cluster.spares=0"]
    flags = [flag for setting in settings for flag in ("--set", setting)]
    with launched("--port", "0", "--stages", "2", *flags) as main:
        line = main.wait_line(r"join with: python -m runtime\.launch (.*)$")[1]
        join = shlex.split(line)
        with launched(*join, "--node-id", "other") as joined:
            client = Client(main.wait_line(r"^ready (http://\S+) ")[1])
            yield Encrypted(main, joined, client, join)


def test_a_stream_is_served_over_encrypted_links(pair: Encrypted, own_address: str) -> None:
    pair.main.wait_line("^cluster links are encrypted$")
    pair.joined.wait_line(rf"^node other at {re.escape(own_address)} joins {own_address}:\d+$")
    assert {stage["node"] for stage in pair.client.stages()} == {"local", "other"}
    streamed = strike_in_mid_stream(pair.client, lambda: None)
    assert streamed.is_whole
    assert streamed.text


def test_every_door_of_the_cluster_offers_curve_only_and_hangs_up_on_plaintext(
    pair: Encrypted, own_address: str
) -> None:
    doors = [port for running in (pair.main, pair.joined) for port in doors_of(running)]
    assert len(doors) >= 8  # two launchers, coordinator, gateway, two nodes, two workers
    for port in doors:
        with socket.create_connection((own_address, port), timeout=10) as connection:
            connection.sendall(GREETING[:SIGNED])
            answer = read_greeting(connection)
            assert answer[MECHANISM].rstrip(b"\0") == b"CURVE"
            connection.sendall(GREETING[SIGNED:])
            assert connection.recv(64) == b""
    assert strike_in_mid_stream(pair.client, lambda: None).is_whole


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("no key", r"the token carries no key.*copy the whole --token"),
        ("another key", r"cannot join .*(own the key|may have been rotated).*compare --join"),
        ("another secret", r"cannot join .*this cluster's token.*compare --join"),
    ],
)
def test_a_machine_that_is_refused_ends_with_the_reason_and_the_stream_is_served(
    pair: Encrypted, change: str, reason: str
) -> None:
    *join, token = pair.join
    secret, _, key = token.rpartition(".")
    tokens = {
        "no key": secret,
        "another key": f"{secret}.{key_text(KeyPair.fresh().public)}",
        "another secret": f"guessed.{key}",
    }
    with launched(*join, tokens[change], "--node-id", "z") as refused:
        assert refused.process.wait(60) == 1
        refused.wait_line("^<end>$")
    assert re.search(rf"^error: .*{reason}", refused.lines[-2]), refused.lines[-2]
    assert "Traceback" not in "\n".join(refused.lines)
    assert strike_in_mid_stream(pair.client, lambda: None).is_whole


def test_a_coordinator_and_a_stage_that_are_killed_come_back_over_encrypted_links(
    pair: Encrypted,
) -> None:
    expected = strike_in_mid_stream(pair.client, lambda: None).text
    os.kill(process_of(pair.main, "coordinator"), signal.SIGKILL)
    pair.main.wait_line("^coordinator ended .*; started again$")
    pair.client.wait_until(lambda: len(pair.client.stages()) == 2)
    (stage,) = [stage for stage in pair.client.stages() if stage["node"] == "other"]
    struck = strike_in_mid_stream(pair.client, lambda: os.kill(stage["pid"], signal.SIGKILL))
    assert struck.is_whole
    assert struck.text == expected
    pair.client.wait_until(lambda: pair.client.get("/health")[0] == 200)


def process_of(running: Launched, role: str) -> int:
    """The process of a launcher that plays this role."""
    (pid,) = [
        pid
        for pid in descendants(running.process.pid)
        if Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[-2:-1] == [role.encode()]
    ]
    return pid


def doors_of(running: Launched) -> list[int]:
    """The ports off loopback at which a launcher and its processes listen."""
    held = {
        str(link.readlink())
        for pid in (running.process.pid, *descendants(running.process.pid))
        for link in Path(f"/proc/{pid}/fd").iterdir()
        if link.is_symlink() and str(link.readlink()).startswith("socket:")
    }
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return [
        int(row[1].partition(":")[2], 16)
        for row in rows
        if row[3] == LISTENS and f"socket:[{row[9]}]" in held and not row[1].startswith("0100007F")
    ]


def read_greeting(connection: socket.socket) -> bytes:
    answer = b""
    while len(answer) < 64 and (data := connection.recv(64)):
        answer += data
    return answer
