"""A tell never waits, happens at most once, in order, and leaves a trace if it is lost."""

import asyncio

import pytest

from actors.kernel.dead_letters import DeadLetter
from actors.kernel.errors import MailboxFull
from actors.kernel.links import MAX_QUEUED_FRAMES
from actors.kernel.ref import Ref
from actors.kernel.supervision import DownReason
from actors.kernel.wire import WIRE, CancelAsk, Gone, Reply, Tell, Unwatch
from tests.actors.kernel.cast import Count, Foreign, Note, PassOn, Player, Stop, Wait
from tests.actors.kernel.worlds import LARGE, InstantWorld, World, arrived, everywhere, simulated
from transport.endpoint import Lane, Peer
from transport.errors import FrameTooLarge, SendQueueFull
from transport.frame import Frame

STRANGER = Peer("instant://stranger", "stranger", 99)


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


# --- bounds


@simulated
async def test_full_mailbox_of_this_process_raises_and_is_counted(world: InstantWorld) -> None:
    async with world.open("here") as here:
        player = here.spawn(Player(), name="player")
        for number in range(8):
            here.tell(player, Note(number))
        with pytest.raises(MailboxFull):
            here.tell(player, Note(8))
        assert here.statistics().dead_letters == {DeadLetter.MAILBOX_FULL: 1}


@simulated
async def test_full_mailbox_of_another_process_loses_the_tell(world: InstantWorld) -> None:
    async with world.pair() as (near, far):
        actor = Player()
        player = far.spawn(actor, name="player")
        near.tell(player, Wait())
        await actor.has_begun_to_wait.wait()
        for number in range(10):
            near.tell(player, Note(number))
        await asyncio.sleep(0.05)
        actor.gate.set()
        assert await actor.wait_notes(8) == list(range(8))
        assert far.statistics().dead_letters == {DeadLetter.MAILBOX_FULL: 2}


@simulated
async def test_full_send_queue_loses_the_tell(world: InstantWorld) -> None:
    async with world.pair() as (near, far):
        player = far.spawn(Player(), name="player")
        await near.ask(player, Note(1), timeout_s=5)
        world.network.endpoints["near"].refusal = SendQueueFull("no room")
        near.tell(player, Note(2))
        assert near.statistics().dead_letters == {DeadLetter.QUEUE_FULL: 1}


@simulated
async def test_tell_that_is_too_large_is_the_senders_own_failure(world: InstantWorld) -> None:
    async with world.pair() as (near, far):
        player = far.spawn(Player(), name="player")
        await near.ask(player, Note(1), timeout_s=5)
        world.network.endpoints["near"].refusal = FrameTooLarge("too large")
        with pytest.raises(FrameTooLarge):
            near.tell(player, Note(2))


@simulated
async def test_tell_that_proves_too_large_once_connected_is_a_dead_letter(
    world: InstantWorld,
) -> None:
    async with world.pair() as (near, far):
        player = far.spawn(Player(), name="player")
        world.network.endpoints["near"].refusal = FrameTooLarge("too large")
        near.tell(player, Note(2))
        await asyncio.sleep(1)
        assert near.statistics().dead_letters == {DeadLetter.TOO_LARGE: 1}


@simulated
async def test_only_so_many_tells_wait_for_a_process_to_connect(world: InstantWorld) -> None:
    async with world.open("near") as near:
        nobody = near.ref("instant://nobody", "player")
        for number in range(MAX_QUEUED_FRAMES + 3):
            near.tell(nobody, Note(number))
        assert near.statistics().dead_letters == {DeadLetter.QUEUE_FULL: 3}
        await asyncio.sleep(60)
        assert near.statistics().dead_letters[DeadLetter.UNREACHABLE] == MAX_QUEUED_FRAMES


@simulated
async def test_leaving_does_not_wait_for_a_process_that_is_being_dialled(
    world: InstantWorld,
) -> None:
    async with world.open("near") as near:
        near.tell(near.ref("instant://nobody", "player"), Note(1))
        await asyncio.sleep(0)
    assert asyncio.get_running_loop().time() == 0


@simulated
async def test_tell_to_an_earlier_life_of_this_process_is_a_dead_letter(
    world: InstantWorld,
) -> None:
    async with world.open("here") as here:
        now = here.spawn(Player(), name="player")
        here.tell(Ref(now.address, now.incarnation + 1, "player"), Note(1))
        assert here.statistics().dead_letters == {DeadLetter.STOPPED: 1}


@simulated
async def test_tell_to_a_peer_whose_loss_is_not_yet_known_is_a_dead_letter(
    world: InstantWorld,
) -> None:
    async with world.pair() as (near, far):
        player = far.spawn(Player(), name="player")
        await near.ask(player, Note(1), timeout_s=5)
        del world.network.endpoints["far"]
        near.tell(player, Note(2))
        assert near.statistics().dead_letters == {DeadLetter.UNREACHABLE: 1}


@simulated
async def test_newer_life_of_a_process_is_reached_before_the_older_is_known_lost(
    world: InstantWorld,
) -> None:
    async with world.pair() as (near, far):
        await near.ask(far.spawn(Player(), name="player"), Note(1), timeout_s=5)
        del world.network.endpoints["far"]
        async with world.open("far") as again:
            actor = Player()
            near.tell(again.spawn(actor, name="player"), Note(2))
            assert await actor.wait_notes(1) == [2]


# --- credit


@simulated
async def test_credit_returns_when_a_message_leaves_the_mailbox(world: InstantWorld) -> None:
    async with world.pair() as (near, far):
        actor = Player()
        player = far.spawn(actor, name="player")
        endpoint = world.network.endpoints["far"]
        for message in (Wait(), Note(1), Note(2)):
            near.tell(player, message)
        await asyncio.sleep(0.05)
        assert (endpoint.num_received, endpoint.num_released) == (3, 1)
        actor.gate.set()
        await actor.wait_notes(2)
        assert endpoint.num_released == 3


@simulated
async def test_credit_returns_for_whatever_is_dropped(world: InstantWorld) -> None:
    async with world.pair() as (near, far):
        actor = Player()
        player = far.spawn(actor, name="player")
        endpoint = world.network.endpoints["far"]
        for message in (Wait(), *map(Note, range(10)), Foreign()):
            near.tell(player, message)
        near.tell(far.local_ref("nobody"), Note(1))
        endpoint.take(STRANGER, Frame(b"\xc1garbage"), Lane.DATA)
        endpoint.take(STRANGER, Frame(b""), Lane.BULK)
        await asyncio.sleep(0.05)
        actor.gate.set()
        await far.stop_actor("player")
        assert endpoint.num_received == 15
        assert endpoint.num_released == 15


# --- what a peer may send


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
