"""A tell never waits, happens at most once, in order, and leaves a trace if it is lost."""

import asyncio

from actors.kernel.dead_letters import DeadLetter
from tests.actors.kernel.cast import Count, Note, PassOn, Player, Stop, Wait
from tests.actors.kernel.worlds import LARGE, InstantWorld, World, arrived, everywhere, simulated
from tests.support.stopping import stop_actor
from transport.endpoint import Lane


@everywhere
async def test_tells_of_one_sender_come_in_order(world: World) -> None:
    async with world.pair(LARGE) as (near, far):
        actor = Player()
        player = far.spawn(actor, name="player")
        for number in range(40):
            near.tell(player, Note(number))
            await asyncio.sleep(0)
        assert await actor.wait_notes(40) == list(range(40))


@everywhere
async def test_control_overtakes_data_that_waits(world: World) -> None:
    async with world.pair() as (near, far):
        actor = Player()
        player = far.spawn(actor, name="player")
        near.tell(player, Wait())
        await actor.has_begun_to_wait.wait()
        near.tell(player, Note(1))
        near.tell(player, Note(2))
        near.tell(player, Note(3), lane=Lane.CONTROL)
        near.tell(player, Note(4), lane=Lane.CONTROL)
        await arrived(near, far)
        actor.gate.set()
        assert await actor.wait_notes(4) == [3, 4, 1, 2]


@everywhere
async def test_actor_knows_who_told_it_and_can_tell_back(world: World) -> None:
    async with world.pair() as (near, far):
        actor, back = Player(), Player()
        player, sender = far.spawn(actor, name="player"), near.spawn(back, name="back")
        near.tell(player, Note(1), sender=sender)
        near.tell(player, Note(2))
        await actor.wait_notes(2)
        assert actor.senders == [sender, None]
        far.tell(sender, Note(3))
        assert await back.wait_notes(1) == [3]


@everywhere
async def test_actor_tells_in_its_own_name(world: World) -> None:
    async with world.pair() as (near, far):
        actor = Player()
        player = far.spawn(actor, name="player")
        teller = near.spawn(Player(), name="teller")
        near.tell(teller, PassOn(player, 7), buffers=(b"abc",))
        assert await actor.wait_notes(1) == [7]
        assert (actor.senders, actor.buffers) == ([teller], [b"abc"])


@everywhere
async def test_buffers_travel_beside_the_message(world: World) -> None:
    async with world.pair() as (near, far):
        actor = Player()
        player = far.spawn(actor, name="player")
        near.tell(player, Note(1), buffers=(b"abc", memoryview(b"defg")))
        await actor.wait_notes(1)
        assert actor.buffers == [b"abc", b"defg"]


@everywhere
async def test_tell_to_an_unknown_or_stopped_actor_is_a_dead_letter(world: World) -> None:
    async with world.pair() as (near, far):
        player = far.spawn(Player(), name="player")
        await near.ask(player, Stop(), timeout_s=5)
        other = far.spawn(Player(), name="other")
        near.tell(player, Note(1), lane=Lane.CONTROL)
        near.tell(far.local_ref("nobody"), Note(1), lane=Lane.CONTROL)
        assert await near.ask(other, Note(1), timeout_s=5) == Count(1)
        assert far.statistics().dead_letters == {DeadLetter.STOPPED: 2}


@everywhere
async def test_first_messages_to_a_process_connect_to_it_and_keep_their_order(
    world: World,
) -> None:
    async with world.pair() as (near, far):
        actor = Player()
        player = far.spawn(actor, name="player")
        for number in range(5):
            near.tell(player, Note(number), lane=Lane.CONTROL)
        assert await near.ask(player, Note(5), timeout_s=5) == Count(6)
        assert actor.notes == [0, 1, 2, 3, 4, 5]


@simulated
async def test_process_is_known_by_the_address_it_was_dialled_at(world: InstantWorld) -> None:
    async with world.pair() as (near, far):
        actor = Player()
        far.spawn(actor, name="player")
        near.tell(near.ref("instant://far/", "player"), Note(1))
        near.tell(near.ref("instant://far", "player"), Note(2))
        assert await actor.wait_notes(2) == [2, 1]
        peer = await near.connect("instant://far/", timeout_s=5)
        near.tell(near.ref("instant://far/", "player"), Note(3))
        near.tell(near.ref(peer.address, "player"), Note(4))
        assert await actor.wait_notes(4) == [2, 1, 3, 4]


@everywhere
async def test_connecting_first_makes_a_ref_by_address(world: World) -> None:
    async with world.pair() as (near, far):
        address = far.spawn(Player(), name="player").address
        peer = await near.connect(address, timeout_s=5)
        anyone = near.ref(peer.address, "player", incarnation=peer.incarnation)
        assert await near.ask(anyone, Note(1), timeout_s=5) == Count(1)


@everywhere
async def test_tell_to_an_earlier_start_does_not_reach_the_next(world: World) -> None:
    async with world.pair() as (near, far):
        first = far.spawn(Player(), name="player")
        await stop_actor(far, "player")
        actor = Player()
        second = far.spawn(actor, name="player")
        near.tell(first, Note(1))
        near.tell(second, Note(2))
        assert await actor.wait_notes(1) == [2]
        assert far.statistics().dead_letters == {DeadLetter.STOPPED: 1}
