"""Processes of a memory network that are cut off, killed or silent are missed by the others."""

import asyncio
import random

import pytest

from tests.support.endpoints import (
    SOON_S,
    MemoryNeighbourhood,
    connected,
    heads,
    next_loss,
    say,
    simulated,
)
from transport.endpoint import Lane, PeerLost, Received
from transport.errors import CannotListen, EndpointClosed, HandshakeRefused, PeerGone, Unreachable
from transport.frame import Frame
from transport.memory_endpoint import MemoryNetwork
from transport.settings import EndpointSettings

TIMEOUT_S = EndpointSettings().peer_timeout_s


@simulated
async def test_partition_loses_each_other_on_both_sides(where: MemoryNeighbourhood) -> None:
    near, far, peer = await connected(where)
    where.network.partition("near", "far")
    near.send_nowait(peer, Frame(b"into the void"))
    assert (await next_loss(near)).peer == peer
    assert (await next_loss(far)).peer == near.identity
    with pytest.raises(PeerGone):
        near.send_nowait(peer, Frame(b"word"))


@simulated
async def test_partition_of_a_connection_without_traffic_is_noticed_too(
    where: MemoryNeighbourhood,
) -> None:
    near, far, _ = await connected(where)
    where.network.partition("far", "near")
    assert f"silent for {TIMEOUT_S:g} s" in str((await next_loss(near)).error)
    assert f"silent for {TIMEOUT_S:g} s" in str((await next_loss(far)).error)


@simulated
async def test_partition_that_heals_in_time_is_only_a_delay(where: MemoryNeighbourhood) -> None:
    near, far, peer = await connected(where)
    where.network.wire.duplication = 1.0
    near.send_nowait(peer, Frame(b"under way when it is cut"))
    where.network.partition("near", "far")
    near.send_nowait(peer, Frame(b"sent into the cut"))
    await asyncio.sleep(TIMEOUT_S / 2)
    assert far.statistics().num_frames_received == 0
    where.network.heal("near", "far")
    assert await heads(far, 2) == [b"under way when it is cut", b"sent into the cut"]
    await asyncio.sleep(2 * TIMEOUT_S)
    assert near.statistics().num_peers == far.statistics().num_peers == 1


@simulated
async def test_nobody_connects_through_a_partition_until_it_heals(
    where: MemoryNeighbourhood,
) -> None:
    near, far = await where.open("near"), await where.open("far")
    where.network.partition("near", "far")
    with pytest.raises(Unreachable):
        await near.connect(far.identity.address, timeout_s=1)
    asyncio.get_running_loop().call_later(2, where.network.heal, "near", "far")
    assert await near.connect(far.identity.address, timeout_s=SOON_S) == far.identity


@simulated
async def test_partition_does_not_end_the_patience_of_who_dials(
    where: MemoryNeighbourhood,
) -> None:
    near, loop = await where.open("near"), asyncio.get_running_loop()
    loop.call_later(0.1, where.network.partition, "near", "far")
    loop.call_later(3, where.network.heal, "near", "far")
    async with asyncio.TaskGroup() as tasks:
        there = tasks.create_task(near.connect("memory://far", timeout_s=SOON_S))
        await asyncio.sleep(1)
        far = await where.open("far")
    assert there.result() == far.identity


@simulated
async def test_healing_does_not_bring_back_who_died_meanwhile(where: MemoryNeighbourhood) -> None:
    near, _, peer = await connected(where)
    where.network.partition("near", "far")
    where.network.kill("far")
    where.network.heal("near", "far")
    assert (await next_loss(near)).peer == peer


@simulated
async def test_partition_leaves_others_alone(where: MemoryNeighbourhood) -> None:
    near, far, peer = await connected(where)
    third = await where.open("third")
    await third.connect(near.identity.address, timeout_s=SOON_S)
    where.network.partition("third", "far")
    where.network.partition("third", "near")
    await next_loss(third)
    assert (await next_loss(near)).peer == third.identity
    await say(near, peer, b"still here")
    assert await heads(far, 1) == [b"still here"]


@simulated
async def test_the_same_lives_can_connect_again_after_a_partition(
    where: MemoryNeighbourhood,
) -> None:
    near, far, peer = await connected(where)
    far.send_nowait(near.identity, Frame(b"before"), Lane.BULK)
    await asyncio.sleep(0.1)
    where.network.partition("near", "far")
    await next_loss(far)
    await asyncio.sleep(TIMEOUT_S)
    where.network.heal("near", "far")
    assert await far.connect(near.identity.address, timeout_s=SOON_S) == near.identity
    far.send_nowait(near.identity, Frame(b"after"), Lane.CONTROL)
    await asyncio.sleep(0.1)
    assert await heads(near, 1) == [b"before"]
    assert (await next_loss(near)).peer == peer
    assert await heads(near, 1) == [b"after"]


@simulated
async def test_frame_that_is_lost_again_and_again_ends_the_connection(
    where: MemoryNeighbourhood,
) -> None:
    near, far, peer = await connected(where)
    where.network.wire.loss = 1.0
    near.send_nowait(peer, Frame(b"word"))
    assert "nothing that we sent was acknowledged" in str((await next_loss(near)).error)
    assert "silent" in str((await next_loss(far)).error)
    where.network.wire.loss = 0.0
    assert await near.connect(peer.address, timeout_s=SOON_S) == peer


@simulated
async def test_peer_that_comes_back_before_it_was_missed_is_lost_first(
    where: MemoryNeighbourhood,
) -> None:
    near, far, peer = await connected(where, EndpointSettings(max_peers=1))
    where.network.wire.loss = 1.0
    near.send_nowait(peer, Frame(b"word"))
    await next_loss(near)
    where.network.wire.loss = 0.0
    assert await near.connect(peer.address, timeout_s=SOON_S) == peer
    near.send_nowait(peer, Frame(b"again"))
    assert "connected anew" in str((await next_loss(far)).error)
    assert await heads(far, 1) == [b"again"]


@simulated
async def test_dialler_that_gives_up_is_missed_by_whom_it_dialled(
    where: MemoryNeighbourhood,
) -> None:
    network = MemoryNetwork(random.Random(0), delay_s=lambda *_: 0.2)
    near, far = await network.open("near"), await network.open("far")
    with pytest.raises(Unreachable):
        await near.connect("memory://far", timeout_s=0.3)
    assert near.statistics().num_peers == 0
    assert (await next_loss(far)).peer == near.identity


# --- death


@simulated
async def test_killed_process_is_missed_after_a_while(where: MemoryNeighbourhood) -> None:
    near, far, peer = await connected(where)
    began = asyncio.get_running_loop().time()
    where.network.kill("far")
    near.send_nowait(peer, Frame(b"nobody reads this"))
    assert (await next_loss(near)).peer == peer
    assert asyncio.get_running_loop().time() - began == pytest.approx(TIMEOUT_S)
    with pytest.raises(EndpointClosed, match="far was killed"):
        await far.receive()
    with pytest.raises(EndpointClosed, match="far was killed"):
        far.send_nowait(near.identity, Frame(b"from beyond"))


@simulated
async def test_killed_process_says_nothing_more(where: MemoryNeighbourhood) -> None:
    near, far, peer = await connected(where)
    where.network.wire.loss = 1.0
    far.send_nowait(near.identity, Frame(b"lost, and to be sent again"))
    where.network.kill("far")
    where.network.wire.loss = 0.0
    assert (await next_loss(near)).peer == peer
    assert near.statistics().num_frames_received == 0


@simulated
async def test_killing_ends_what_waits_there(where: MemoryNeighbourhood) -> None:
    near, _, _ = await connected(where)
    asyncio.get_running_loop().call_later(1, where.network.kill, "near")
    with pytest.raises(EndpointClosed):
        await near.receive()


@simulated
async def test_process_may_be_killed_while_it_closes(where: MemoryNeighbourhood) -> None:
    near, far, _ = await connected(where)
    where.network.partition("near", "far")
    asyncio.get_running_loop().call_later(0.1, where.network.kill, "near")
    await near.aclose(grace_s=0.3)
    assert asyncio.get_running_loop().time() < 0.3
    again = await where.open("near")
    await far.aclose()
    await again.aclose()


@simulated
async def test_process_that_is_killed_by_a_frame_takes_none_behind_it(
    where: MemoryNeighbourhood,
) -> None:
    near, far, peer = await connected(where)
    told: list[Received | PeerLost] = []

    def die(event: Received | PeerLost) -> None:
        told.append(event)
        where.network.kill("far")

    far.subscribe(die)
    where.network.wire.duplication = 1.0  # more often two of them have their turn at once
    for number in range(50):
        near.send_nowait(peer, Frame(b"%d" % number))
    await next_loss(near)
    assert [_head(event) for event in told] == [b"0"]


def _head(event: Received | PeerLost) -> bytes:
    assert isinstance(event, Received)
    return event.frame.head


@simulated
async def test_killing_nobody_does_nothing(where: MemoryNeighbourhood) -> None:
    where.network.kill("nobody")
    assert where.network.door_of("nobody") is None


@simulated
async def test_name_has_one_life_at_a_time(where: MemoryNeighbourhood) -> None:
    first = await where.open("near")
    with pytest.raises(CannotListen, match="memory://near: a process listens there already"):
        await where.open("near")
    where.network.kill("near")
    second = await where.open("near")
    assert second.identity.address == first.identity.address
    assert second.identity.incarnation > first.identity.incarnation


@simulated
async def test_new_life_that_dials_while_the_old_one_is_dialled_is_connected(
    where: MemoryNeighbourhood,
) -> None:
    near, _ = await where.open("near"), await where.open("far")
    where.network.kill("far")
    async with asyncio.TaskGroup() as tasks:
        there = tasks.create_task(near.connect("memory://far", timeout_s=SOON_S))
        await asyncio.sleep(0.1)
        far = await where.open("far")
        back = tasks.create_task(far.connect("memory://near", timeout_s=SOON_S))
    assert (there.result(), back.result()) == (far.identity, near.identity)
    assert near.statistics().num_peers == 1


@simulated
async def test_who_is_full_dials_nobody(where: MemoryNeighbourhood) -> None:
    near = await where.open("near", settings=EndpointSettings(max_peers=1))
    first, second = await where.open("first"), await where.open("second")
    await near.connect(first.identity.address, timeout_s=SOON_S)
    with pytest.raises(HandshakeRefused, match="1 processes are connected here already"):
        await near.connect(second.identity.address, timeout_s=SOON_S)
