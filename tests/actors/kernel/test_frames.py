"""No frame that a peer sends harms anybody."""

import asyncio

import pytest

from actors.kernel.dead_letters import DeadLetter
from actors.kernel.supervision import DownReason
from actors.kernel.wire import WIRE, CancelAsk, Gone, Reply, Tell, Unwatch
from tests.actors.kernel.cast import Count, Note, Player, Wait
from tests.actors.kernel.instant import STRANGER
from tests.actors.kernel.worlds import LARGE, InstantWorld, simulated
from transport.endpoint import Lane
from transport.frame import Frame


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"\xc1",
        WIRE.encode(Tell("player", 0, "", 0, None)),
        WIRE.encode(Tell("player", 0, "", 0, ["note", "seven"])),
        WIRE.encode(Tell("player", 0, "", 0, ["unknown", 1])),
        WIRE.encode(Tell("player", 0, "", 0, ["note", 1, 2])),
        WIRE.encode(Note(1)),
    ],
)
def test_malformed_frame_harms_nobody(head: bytes) -> None:
    @simulated
    async def scenario(world: InstantWorld) -> None:
        async with world.pair() as (near, far):
            player = far.spawn(Player(), name="player")
            world.network.endpoints["far"].take(STRANGER, Frame(head), Lane.DATA)
            assert await near.ask(player, Note(1), timeout_s=5) == Count(1)
            assert far.statistics().dead_letters == {DeadLetter.MALFORMED: 1}

    scenario()


@simulated
async def test_what_nobody_asked_for_is_ignored(world: InstantWorld) -> None:
    async with world.pair() as (near, far):
        player = far.spawn(Player(), name="player")
        waiting = asyncio.ensure_future(near.ask(player, Wait(), timeout_s=1000))
        await asyncio.sleep(0.05)
        endpoint = world.network.endpoints["near"]
        endpoint.take(STRANGER, Frame(WIRE.encode(Reply(1, ["count", 9]))), Lane.CONTROL)
        for wire in (
            Gone(1, DownReason.NORMAL, ""),
            Unwatch("nobody", 1),
            CancelAsk("nobody", 1),
        ):
            endpoint.take(STRANGER, Frame(WIRE.encode(wire)), Lane.CONTROL)
        await asyncio.sleep(0.05)
        assert not waiting.done()
        assert near.statistics().dead_letters == {DeadLetter.LATE_REPLY: 1}
        waiting.cancel()


@simulated
async def test_flood_of_tells_leaves_room_for_others_on_the_loop(world: InstantWorld) -> None:
    async with world.open("here", limits=LARGE) as here:
        actor = Player()
        player = here.spawn(actor, name="player")
        for number in range(1000):
            here.tell(player, Note(number))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert 0 < len(actor.notes) < 1000


@simulated
async def test_flood_of_frames_leaves_room_for_others_on_the_loop(world: InstantWorld) -> None:
    async with world.pair(LARGE) as (near, far):
        actor = Player()
        player = far.spawn(actor, name="player")
        await near.ask(player, Note(0), timeout_s=5)
        for number in range(1000):
            near.tell(player, Note(number))
        for _ in range(3):
            await asyncio.sleep(0)
        waiting = far.statistics().actors[0].num_waiting
        assert 0 < waiting + len(actor.notes) < 1000
