"""The failure contract with real processes: killed, frozen, and struck while stages change.

One service takes all of it, one blow after another, and every text is that of an undisturbed run.
"""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from http.client import HTTPException
from typing import Any

import pytest

from tests.cluster.striking import (
    STRUCK,
    Struck,
    freeze,
    is_frozen,
    kill,
    strike_in_mid_stream,
)
from tests.support.services import Client, descendants, is_alive, service

pytestmark = [pytest.mark.timeout(400), pytest.mark.long]
PATIENCE_S = 200.0
BODIES = [STRUCK, {**STRUCK, "prompt": "If the", "temperature": 0.8, "seed": 7}]
"""A greedy stream and a sampled one."""

Texts = tuple[Client, list[str]]


@pytest.fixture(scope="module")
def serving() -> Iterator[Texts]:
    """A service, and what it says when nobody strikes it."""
    patience = f"serving.recovery_timeout_s={PATIENCE_S:g}"
    with service("--model", "demo", "--stages", "2", "--set", patience) as (client, _):
        yield client, [read(client, body, lambda: None).text for body in BODIES]


def read(client: Client, body: dict[str, Any], strike: Callable[[], None]) -> Struck:
    return strike_in_mid_stream(client, strike, PATIENCE_S, body)


def read_both(client: Client, strike: Callable[[], None]) -> list[Struck]:
    """Both streams at once; the blow falls in the middle of the first that gets there."""
    is_struck = threading.Lock()

    def strike_once() -> None:
        if is_struck.acquire(blocking=False):
            strike()

    with ThreadPoolExecutor(len(BODIES)) as pool:
        return list(pool.map(lambda body: read(client, body, strike_once), BODIES))


def pid_of(client: Client, role: str) -> int:
    """The present process of a role; of several stages the last, which samples."""
    if role == "stage":
        return int(client.stages()[-1]["pid"])
    processes = client.get("/admin/status")[1]["processes"]
    return next(int(process["pid"]) for process in processes if process["role"] == role)


def is_healthy(client: Client) -> bool:
    """Whether the service answers, and that it is whole."""
    with suppress(OSError, HTTPException):
        return client.get("/health")[0] == 200
    return False


def wait_whole(client: Client) -> None:
    client.wait_until(lambda: is_healthy(client), PATIENCE_S)


def order_change(client: Client, layers: str) -> None:
    """Order a change whose answer may never come: whoever would give it may be struck."""
    with suppress(OSError, HTTPException):
        client.post("/admin/plan", {"layers": layers})


BLOWS: dict[str, tuple[str, Callable[[int], None]]] = {
    "stage-crash": ("stage", kill),
    "stage-hang": ("stage", freeze),
    "coordinator-crash": ("coordinator", kill),
    "coordinator-hang": ("coordinator", freeze),
    "gateway-hang": ("gateway", freeze),
    "node-crash": ("node", kill),
}


@pytest.mark.parametrize("fault", BLOWS)
def test_streams_outlive_a_process_with_every_token_they_would_have_had(
    fault: str, serving: Texts
) -> None:
    client, undisturbed = serving
    wait_whole(client)
    role, blow = BLOWS[fault]
    victim = pid_of(client, role)
    children = descendants(victim)
    struck = read_both(client, lambda: blow(victim))
    assert [stream.is_whole for stream in struck] == [True, True]
    assert [stream.text for stream in struck] == undisturbed
    client.wait_until(lambda: not is_frozen(victim))
    if fault.endswith("crash"):
        client.wait_until(lambda: not any(is_alive(pid) for pid in (victim, *children)))
        client.wait_until(lambda: pid_of(client, role) not in (0, victim), PATIENCE_S)


@pytest.mark.parametrize("role", ["stage", "node", "coordinator"])
def test_streams_outlive_a_process_that_dies_while_their_stages_change(
    role: str, serving: Texts
) -> None:
    client, undisturbed = serving
    wait_whole(client)
    victim = pid_of(client, role)
    now = [stage["layers"] for stage in client.stages()]
    layers = "0:3,3:12" if now[0] != [0, 3] else "0:8,8:12"
    ordering = threading.Thread(target=order_change, args=[client, layers])

    def strike() -> None:
        ordering.start()
        kill(victim)

    struck = read_both(client, strike)
    ordering.join(PATIENCE_S)
    assert not ordering.is_alive()
    assert [stream.is_whole for stream in struck] == [True, True]
    assert [stream.text for stream in struck] == undisturbed
    assert not is_alive(victim)


@pytest.mark.parametrize("role", ["stage", "coordinator"])
def test_a_process_that_dies_while_nobody_asks_is_not_missed(role: str, serving: Texts) -> None:
    client, undisturbed = serving
    wait_whole(client)
    victim = pid_of(client, role)
    kill(victim)
    client.wait_until(lambda: not is_alive(victim))
    wait_whole(client)
    assert read(client, BODIES[0], lambda: None).text == undisturbed[0]


def test_a_killed_gateway_breaks_its_connections_and_never_ends_them_politely(
    serving: Texts,
) -> None:
    client, undisturbed = serving
    wait_whole(client)
    struck = read_both(client, lambda: kill(pid_of(client, "gateway")))
    for stream, text in zip(struck, undisturbed, strict=True):
        assert stream.is_cut
        assert not stream.is_whole
        assert "event: error" not in stream.lines
        assert text.startswith(stream.text)
    wait_whole(client)
    assert [stream.text for stream in read_both(client, lambda: None)] == undisturbed
    client.wait_until(lambda: client.get("/admin/status")[1]["requests"]["running"] == 0)
