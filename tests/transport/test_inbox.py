"""One consumer takes what came, lowest lane first, and never sees a peer after its end."""

import asyncio

import pytest

from transport.endpoint import Lane, Peer, PeerLost, Received
from transport.errors import EndpointClosed, PeerGone
from transport.frame import Frame
from transport.inbox import Inbox

NEAR, FAR = Peer("memory://near", "near", 1), Peer("memory://far", "far", 2)
GONE = PeerGone("it is gone")


def _put(inbox: Inbox, peer: Peer, lane: Lane, *words: str) -> None:
    for word in words:
        inbox.put(Received(peer, lane, Frame(word.encode()), lambda: None))


async def _all(inbox: Inbox) -> list[str]:
    """Everything that waits: the heads of frames, and the names of peers that are lost."""
    inbox.put(Received(NEAR, Lane.BULK, Frame(b"<end>"), lambda: None))
    words: list[str] = []
    while not words or words[-1] != "<end>":
        event = await inbox.receive()
        lost = isinstance(event, PeerLost)
        words.append(f"lost {event.peer.name}" if lost else _word(event))
    return words[:-1]


def _word(event: Received | PeerLost) -> str:
    assert isinstance(event, Received)
    return event.frame.head.decode()


async def test_lowest_lane_comes_first_and_each_in_order() -> None:
    inbox = Inbox()
    _put(inbox, NEAR, Lane.BULK, "b1", "b2")
    _put(inbox, FAR, Lane.DATA, "d1", "d2")
    _put(inbox, NEAR, Lane.CONTROL, "c1", "c2")
    assert await _all(inbox) == ["c1", "c2", "d1", "d2", "b1", "b2"]


async def test_loss_comes_behind_every_frame_of_that_peer() -> None:
    inbox = Inbox()
    _put(inbox, FAR, Lane.BULK, "b1")
    _put(inbox, FAR, Lane.CONTROL, "c1")
    _put(inbox, FAR, Lane.DATA, "d1", "d2")
    inbox.lose(FAR, GONE)
    assert await _all(inbox) == ["c1", "d1", "d2", "b1", "lost far"]


async def test_loss_does_not_wait_behind_the_frames_of_others() -> None:
    inbox = Inbox()
    _put(inbox, NEAR, Lane.DATA, "near 1", "near 2")
    _put(inbox, FAR, Lane.DATA, "far 1")
    _put(inbox, NEAR, Lane.DATA, "near 3")
    inbox.lose(FAR, GONE)
    assert await _all(inbox) == ["far 1", "lost far", "near 1", "near 2", "near 3"]


async def test_peer_that_is_back_is_not_heard_before_it_was_lost() -> None:
    inbox = Inbox()
    _put(inbox, FAR, Lane.BULK, "old")
    inbox.lose(FAR, GONE)
    _put(inbox, FAR, Lane.CONTROL, "new control")
    _put(inbox, FAR, Lane.DATA, "new data")
    inbox.lose(FAR, GONE)
    assert await _all(inbox) == ["old", "lost far", "new control", "new data", "lost far"]


async def test_loss_carries_its_error() -> None:
    inbox = Inbox()
    inbox.lose(FAR, GONE)
    assert await inbox.receive() == PeerLost(FAR, GONE)


async def test_consumer_waits_until_something_comes() -> None:
    inbox = Inbox()
    async with asyncio.TaskGroup() as tasks:
        receiving = tasks.create_task(inbox.receive())
        await asyncio.sleep(0)
        assert not receiving.done()
        _put(inbox, FAR, Lane.DATA, "word")
    assert _word(receiving.result()) == "word"


async def test_second_consumer_is_refused_while_the_first_waits() -> None:
    inbox = Inbox()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(inbox.receive())
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="one consumer at a time"):
            await inbox.receive()
        inbox.lose(FAR, GONE)


async def test_consumer_may_be_cancelled_and_another_begin() -> None:
    inbox = Inbox()
    async with asyncio.TaskGroup() as tasks:
        first = tasks.create_task(inbox.receive())
        await asyncio.sleep(0)
        first.cancel()
        _put(inbox, FAR, Lane.DATA, "word")
    assert _word(await inbox.receive()) == "word"


async def test_subscriber_is_told_what_waits_and_then_what_comes() -> None:
    inbox, told = Inbox(), list[Received | PeerLost]()
    _put(inbox, FAR, Lane.DATA, "d1")
    _put(inbox, FAR, Lane.CONTROL, "c1")
    inbox.subscribe(told.append)
    assert [_word(event) for event in told] == ["c1", "d1"]
    _put(inbox, FAR, Lane.BULK, "b1")
    _put(inbox, FAR, Lane.CONTROL, "c2")
    inbox.lose(FAR, GONE)
    assert [_word(event) for event in told[:-1]] == ["c1", "d1", "b1", "c2"]
    assert told[-1] == PeerLost(FAR, GONE)


async def test_closed_inbox_drops_what_waits_and_raises() -> None:
    inbox = Inbox()
    _put(inbox, FAR, Lane.DATA, "unread")
    inbox.close(EndpointClosed("closed"))
    for _ in range(2):
        with pytest.raises(EndpointClosed):
            await inbox.receive()


async def test_closing_ends_a_consumer_that_waits() -> None:
    inbox = Inbox()
    asyncio.get_running_loop().call_soon(inbox.close, EndpointClosed("closed"))
    with pytest.raises(EndpointClosed):
        await inbox.receive()
