import asyncio
from itertools import pairwise

from transport.endpoint import Lane, Peer, PeerLost, Received
from transport.frame import Frame
from transport.inbox import Inbox
from transport.zmq_endpoint import ZmqEndpoint
from transport.zmq_socket import MAX_ROUND

NUM_FRAMES = 10 * MAX_ROUND


async def test_a_subscriber_hears_everything_in_order_and_others_run_in_between() -> None:
    heads: list[bytes] = []
    turns: list[int] = []
    done = asyncio.Event()

    def on_event(event: Received | PeerLost) -> None:
        assert isinstance(event, Received)
        heads.append(event.frame.head)
        event.release()
        if len(heads) == NUM_FRAMES:
            done.set()

    def take_a_turn() -> None:
        turns.append(len(heads))
        if not done.is_set():
            asyncio.get_running_loop().call_soon(take_a_turn)

    async with ZmqEndpoint.opened(name="near") as near, ZmqEndpoint.opened(name="far") as far:
        peer = await near.connect(far.identity.address, timeout_s=10)
        sent = [b"%d" % number for number in range(NUM_FRAMES)]
        for head in sent[:MAX_ROUND]:
            near.send_nowait(peer, Frame(head))
        assert await far.receive()  # the others wait in the inbox, or come later
        heads.append(sent[0])
        far.subscribe(on_event)
        take_a_turn()
        for head in sent[MAX_ROUND:]:
            near.send_nowait(peer, Frame(head))
        async with asyncio.timeout(10):
            await done.wait()
    assert heads == sent
    steps = [after - before for before, after in pairwise(turns)]
    assert max(steps) <= 2 * MAX_ROUND, "a round is bounded, so that others have their turn"


async def test_a_subscriber_hears_of_a_lost_peer_behind_its_frames() -> None:
    events: list[Received | PeerLost] = []
    is_lost = asyncio.Event()

    def on_event(event: Received | PeerLost) -> None:
        events.append(event)
        if isinstance(event, PeerLost):
            is_lost.set()

    async with ZmqEndpoint.opened(name="far") as far:
        far.subscribe(on_event)
        async with ZmqEndpoint.opened(name="near") as near:
            peer = await near.connect(far.identity.address, timeout_s=10)
            for number in range(5):
                near.send_nowait(peer, Frame(b"%d" % number))
        async with asyncio.timeout(10):
            await is_lost.wait()
    assert [event.frame.head for event in events[:-1] if isinstance(event, Received)] == [
        b"0",
        b"1",
        b"2",
        b"3",
        b"4",
    ]


async def test_what_waits_is_handed_over_lowest_lane_first() -> None:
    inbox, peer = Inbox(), Peer("memory://x", "x", 1)
    for lane in (Lane.BULK, Lane.DATA, Lane.CONTROL):
        inbox.put(Received(peer, lane, Frame(lane.name.encode()), lambda: None))
    heard: list[Received | PeerLost] = []
    inbox.subscribe(heard.append)
    assert [event.lane for event in heard if isinstance(event, Received)] == sorted(Lane)
