"""How every endpoint loses its peers and closes, whatever carries its bytes."""

import asyncio
from typing import Any

import pytest

from tests.support.endpoints import (
    SOON_S,
    Neighbourhood,
    connected,
    everywhere,
    heads,
    next_event,
    next_frame,
    next_loss,
    say,
    until,
)
from transport.endpoint import Lane, PeerLost, Received
from transport.errors import EndpointClosed, PeerGone
from transport.frame import Frame
from transport.settings import EndpointSettings

NARROW = EndpointSettings(window_frames=4)


@everywhere
async def test_peer_that_closes_is_lost_behind_its_last_frame(where: Neighbourhood) -> None:
    near, far, peer = await connected(where)
    for lane in Lane:
        far.send_nowait(near.identity, Frame(b"last words"), lane)
    await far.aclose(grace_s=SOON_S)
    assert await heads(near, 3) == [b"last words"] * 3
    lost = await next_loss(near)
    assert lost.peer == peer
    assert "closed" in str(lost.error)
    with pytest.raises(PeerGone):
        near.send_nowait(peer, Frame(b"too late"))
    assert near.statistics().num_peers == 0


@everywhere
async def test_closing_delivers_what_is_queued_as_credit_comes(where: Neighbourhood) -> None:
    near, far, peer = await connected(where, NARROW)
    words = [b"%d" % number for number in range(20)]
    for word in words:
        near.send_nowait(peer, Frame(word))
        near.send_nowait(peer, Frame(word), Lane.BULK)
    near.send_nowait(peer, Frame(b"urgent"), Lane.CONTROL)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(near.aclose(grace_s=SOON_S))
        came = [await next_frame(far) for _ in range(41)]
    for lane, expected in ((Lane.CONTROL, [b"urgent"]), (Lane.DATA, words), (Lane.BULK, words)):
        assert [each.frame.head for each in came if each.lane == lane] == expected
    assert (await next_loss(far)).peer == near.identity


@everywhere
async def test_closing_does_not_wait_longer_than_its_grace(where: Neighbourhood) -> None:
    near, far, peer = await connected(where, NARROW)
    for _ in range(6):
        near.send_nowait(peer, Frame(b"unread"))
    async with asyncio.timeout(SOON_S):
        await near.aclose(grace_s=0.05)
    assert near.statistics().num_frames_dropped == 2
    events = [await next_event(far) for _ in range(5)]
    assert isinstance(events[-1], PeerLost)


@everywhere
async def test_both_may_close_at_once(where: Neighbourhood) -> None:
    near, far, peer = await connected(where)
    near.send_nowait(peer, Frame(b"never read"))
    async with asyncio.timeout(SOON_S), asyncio.TaskGroup() as tasks:
        tasks.create_task(near.aclose(grace_s=SOON_S))
        tasks.create_task(far.aclose(grace_s=SOON_S))


@everywhere
async def test_sender_that_waits_for_credit_learns_that_the_peer_is_gone(
    where: Neighbourhood,
) -> None:
    near, far, peer = await connected(where, NARROW)
    await say(near, peer, *[b"word"] * 4)
    async with asyncio.TaskGroup() as tasks:
        waiting = tasks.create_task(_error_of_sending(near.send, peer))
        await asyncio.sleep(0)
        await far.aclose()
    assert isinstance(waiting.result(), PeerGone)


async def _error_of_sending(send: Any, *arguments: Any) -> Exception | None:
    try:
        await send(*arguments, Frame(b"waits"), timeout_s=SOON_S)
    except (PeerGone, EndpointClosed) as error:
        return error
    return None


@everywhere
async def test_new_life_of_a_peer_is_another_peer(where: Neighbourhood) -> None:
    near, far, peer = await connected(where)
    await far.aclose()
    assert (await next_loss(near)).peer == peer
    again = await where.open("far")
    assert again.identity.address == peer.address
    new = await near.connect(peer.address, timeout_s=SOON_S)
    assert new == again.identity != peer
    with pytest.raises(PeerGone):
        near.send_nowait(peer, Frame(b"to the old one"))
    near.send_nowait(new, Frame(b"to the new one"))
    assert await heads(again, 1) == [b"to the new one"]


@everywhere
async def test_new_life_may_be_the_first_to_connect(where: Neighbourhood) -> None:
    near, far, peer = await connected(where)
    await far.aclose()
    again = await where.open("far")
    await again.connect(near.identity.address, timeout_s=SOON_S)
    again.send_nowait(near.identity, Frame(b"back again"))
    assert (await next_loss(near)).peer == peer
    assert (await next_frame(near)).peer == again.identity


@everywhere
async def test_release_after_the_peer_is_gone_is_harmless(where: Neighbourhood) -> None:
    near, far, peer = await connected(where, NARROW)
    near.send_nowait(peer, Frame(b"word"))
    received = await next_frame(far, release=False)
    await near.aclose()
    await next_loss(far)
    received.release()
    assert far.statistics().num_frames_sent == 0


@everywhere
async def test_subscriber_is_told_of_everything_as_it_comes(where: Neighbourhood) -> None:
    near, far, peer = await connected(where)
    far.send_nowait(near.identity, Frame(b"early"))
    await until(lambda: near.statistics().num_frames_received == 1)
    told: list[Received | PeerLost] = []
    near.subscribe(told.append)
    await say(far, near.identity, b"late", b"later")
    await far.aclose()
    await until(lambda: len(told) == 4)
    assert [event.frame.head for event in told[:-1] if isinstance(event, Received)] == [
        b"early",
        b"late",
        b"later",
    ]
    assert isinstance(told[-1], PeerLost)
    assert told[-1].peer == peer


@everywhere
async def test_who_subscribed_still_receives_the_end(where: Neighbourhood) -> None:
    near, _, _ = await connected(where)
    told: list[Received | PeerLost] = []
    near.subscribe(told.append)
    async with asyncio.TaskGroup() as tasks:
        ended = tasks.create_task(_closed(near.receive()))
        await asyncio.sleep(0)
        await near.aclose()
    assert ended.result()
    assert not any(isinstance(event, Received) for event in told)


# --- closed


@everywhere
async def test_closed_endpoint_does_nothing_more(where: Neighbourhood) -> None:
    near, far, peer = await connected(where)
    far.send_nowait(near.identity, Frame(b"never read"))
    await until(lambda: near.statistics().num_frames_received == 1)
    await near.aclose()
    with pytest.raises(EndpointClosed):
        await near.receive()
    with pytest.raises(EndpointClosed):
        near.send_nowait(peer, Frame(b"word"))
    with pytest.raises(EndpointClosed):
        await near.send(peer, Frame(b"word"), timeout_s=SOON_S)
    with pytest.raises(EndpointClosed):
        await near.connect(far.identity.address, timeout_s=SOON_S)
    await near.aclose()
    assert near.statistics().num_peers == 0


@everywhere
async def test_closing_ends_whatever_waits(where: Neighbourhood) -> None:
    near, far, peer = await connected(where, NARROW)
    await say(near, peer, *[b"word"] * 4)
    async with asyncio.TaskGroup() as tasks:
        waits = [
            tasks.create_task(_closed(near.receive())),
            tasks.create_task(_closed(near.send(peer, Frame(b"word"), timeout_s=SOON_S))),
            tasks.create_task(_closed(near.connect(where.address_of_nobody(), timeout_s=SOON_S))),
        ]
        await asyncio.sleep(0.01)
        await near.aclose(grace_s=0.01)
    assert [task.result() for task in waits] == [True] * 3
    assert far.statistics().num_frames_received == 4


async def _closed(waiting: Any) -> bool:
    try:
        await waiting
    except EndpointClosed:
        return True
    return False


@everywhere
async def test_nothing_runs_on_after_all_have_closed(where: Neighbourhood) -> None:
    near, far, peer = await connected(where)
    near.send_nowait(peer, Frame(b"word"))
    await next_frame(far)
    await near.aclose()
    await far.aclose()
    assert asyncio.all_tasks() == {asyncio.current_task()}


@everywhere
async def test_second_consumer_is_refused(where: Neighbourhood) -> None:
    near, far, _ = await connected(where)
    async with asyncio.TaskGroup() as tasks:
        first = tasks.create_task(next_frame(near))
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="one consumer at a time"):
            await near.receive()
        far.send_nowait(near.identity, Frame(b"for the first"))
    assert first.result().frame.head == b"for the first"


@everywhere
async def test_cancelled_receive_loses_nothing(where: Neighbourhood) -> None:
    near, far, _ = await connected(where)
    async with asyncio.TaskGroup() as tasks:
        given_up = tasks.create_task(near.receive())
        await asyncio.sleep(0)
        far.send_nowait(near.identity, Frame(b"word"))
        await until(lambda: near.statistics().num_frames_received == 1)
        given_up.cancel()
    event: Received | PeerLost | None = None if given_up.cancelled() else given_up.result()
    assert event is not None or await heads(near, 1) == [b"word"]
