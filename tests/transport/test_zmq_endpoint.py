"""An endpoint over ZeroMQ notices how real processes end, and listens where it may."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest

from tests.support.endpoints import (
    SOON_S,
    ZmqNeighbourhood,
    connected,
    heads,
    lived,
    next_event,
    next_frame,
    next_loss,
    say,
)
from tests.support.services import CHECKOUT
from transport.endpoint import Lane, Received
from transport.errors import CannotListen
from transport.frame import Frame
from transport.settings import EndpointSettings
from transport.zmq_endpoint import ZmqEndpoint


def on_loopback(
    scenario: Callable[[ZmqNeighbourhood], Coroutine[Any, Any, None]],
) -> Callable[[], None]:
    """Run a scenario among processes on loopback."""

    def test() -> None:
        asyncio.run(lived(scenario, ZmqNeighbourhood()))

    test.__name__ = scenario.__name__
    return test


# --- processes that end


@contextlib.contextmanager
def lone_process() -> Iterator["tuple[subprocess.Popen[str], str]"]:
    """A process with an endpoint, and its address."""
    command = [sys.executable, "-m", "tests.transport.lone_endpoint"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=CHECKOUT)
    with process:
        try:
            assert process.stdout is not None
            yield process, process.stdout.readline().strip()
        finally:
            process.kill()


@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGSTOP, signal.SIGINT])
def test_process_that_ends_or_hangs_is_lost(ending: signal.Signals) -> None:
    async def scenario(address: str, pid: int) -> None:
        where = ZmqNeighbourhood()
        near = await where.open("near")
        lone = await near.connect(address, timeout_s=SOON_S)
        await say(near, lone, b"echo")
        assert await heads(near, 1) == [b"echo"]
        os.kill(pid, ending)
        assert (await next_loss(near)).peer == lone
        assert near.statistics().num_peers == 0
        await where.aclose()

    with lone_process() as (process, address):
        asyncio.run(scenario(address, process.pid))


def test_process_that_is_killed_under_load_is_lost_behind_whole_frames() -> None:
    async def scenario(address: str, process: "subprocess.Popen[str]") -> None:
        where = ZmqNeighbourhood()
        near = await where.open("near")
        lone = await near.connect(address, timeout_s=SOON_S)
        for number in range(50):
            near.send_nowait(lone, Frame(b"%d" % number, (b"x" * 100_000,)))
        assert await heads(near, 1) == [b"0"]
        process.kill()
        number = 0
        while isinstance(event := await next_event(near), Received):
            number += 1
            assert event.frame.head == b"%d" % number
            assert len(event.frame.buffers[0]) == 100_000
        assert event.peer == lone
        await where.aclose()

    with lone_process() as (process, address):
        asyncio.run(scenario(address, process))


@on_loopback
async def test_closed_connection_is_noticed_before_any_timeout(where: ZmqNeighbourhood) -> None:
    patient = EndpointSettings(peer_timeout_s=2 * SOON_S, heartbeat_s=SOON_S)
    near, far, peer = await connected(where, patient)
    await far.aclose(grace_s=0)
    assert (await next_loss(near)).peer == peer


# --- listening


@pytest.mark.parametrize("host", ["0.0.0.0", "*", "", "::"])
async def test_address_of_all_interfaces_is_refused(host: str) -> None:
    with pytest.raises(CannotListen, match="give one address, not all"):
        async with ZmqEndpoint.opened(name="near", host=host):
            pytest.fail("it listens")


async def test_address_that_is_taken_is_refused() -> None:
    async with ZmqEndpoint.opened(name="near") as near:
        port = int(near.identity.address.rpartition(":")[2])
        with pytest.raises(CannotListen, match="in use"):
            async with ZmqEndpoint.opened(name="second", port=port):
                pytest.fail("it listens")


async def test_address_of_another_machine_is_refused() -> None:
    with pytest.raises(CannotListen, match=r"192\.0\.2\.1"):
        async with ZmqEndpoint.opened(name="near", host="192.0.2.1"):
            pytest.fail("it listens")


@on_loopback
async def test_a_large_bulk_lane_leaves_control_alone(where: ZmqNeighbourhood) -> None:
    near, far, peer = await connected(where)
    for _ in range(20):
        near.send_nowait(peer, Frame(b"bulk", (bytes(1 << 22),)), Lane.BULK)
    near.send_nowait(peer, Frame(b"urgent"), Lane.CONTROL)
    lanes = [(await next_frame(far)).lane for _ in range(21)]
    assert lanes.index(Lane.CONTROL) < 20
