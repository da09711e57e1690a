"""Nothing that waits is unbounded, and what is lost is counted."""

import asyncio

import pytest

from actors.kernel.dead_letters import DeadLetter
from actors.kernel.errors import MailboxFull
from actors.kernel.links import MAX_QUEUED_FRAMES
from actors.kernel.ref import Ref
from tests.actors.kernel.cast import Foreign, Note, Player, Wait
from tests.actors.kernel.instant import STRANGER
from tests.actors.kernel.worlds import InstantWorld, simulated
from tests.support.stopping import stop_actor
from transport.endpoint import Lane
from transport.errors import FrameTooLarge, SendQueueFull
from transport.frame import Frame


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
        await stop_actor(far, "player")
        assert endpoint.num_received == 15
        assert endpoint.num_released == 15
