"""An ask whose actor cannot be reached, or cannot be read, says so."""

import asyncio

import pytest

from actors.kernel.actor import Actor
from actors.kernel.dead_letters import DeadLetter
from actors.kernel.errors import ActorStopped, AskTimeout, Rejected, RemoteFault
from tests.actors.kernel.cast import Count, Foreign, Note, Player, Wait
from tests.actors.kernel.worlds import InstantWorld, World, everywhere, simulated
from tests.support.stopping import stop_actor
from transport.codec import Message
from transport.errors import FrameTooLarge, SendQueueFull, Unreachable


@simulated
async def test_ask_of_a_process_that_is_not_there_is_unreachable(world: InstantWorld) -> None:
    async with world.open("near") as near:
        nobody = near.ref("instant://nobody", "player")
        with pytest.raises(Unreachable, match="nobody"):
            await near.ask(nobody, Note(1), timeout_s=60)


@simulated
async def test_asks_pending_at_a_process_that_is_lost_fail_at_once(world: InstantWorld) -> None:
    async with world.pair() as (near, far):
        player = far.spawn(Player(), name="player")
        waiting = asyncio.ensure_future(near.ask(player, Wait(), timeout_s=1000))
        await asyncio.sleep(1)
        world.network.lose("far")
        with pytest.raises(Unreachable, match="may have run"):
            await waiting
        assert asyncio.get_running_loop().time() < 2


@simulated
async def test_ask_of_a_process_known_to_be_lost_fails_without_dialling(
    world: InstantWorld,
) -> None:
    async with world.pair() as (near, far):
        player = far.spawn(Player(), name="player")
        await near.ask(player, Note(1), timeout_s=5)
        world.network.lose("far")
        await asyncio.sleep(0)
        before = asyncio.get_running_loop().time()
        with pytest.raises(Unreachable, match="was lost"):
            await near.ask(player, Note(1), timeout_s=5)
        assert asyncio.get_running_loop().time() == before


@simulated
async def test_ask_of_an_earlier_life_of_a_process_is_unreachable(world: InstantWorld) -> None:
    async with world.pair() as (near, far):
        old = far.spawn(Player(), name="player")
        await near.ask(old, Note(1), timeout_s=5)
        world.network.lose("far")
        async with world.open("far") as again:
            new = again.spawn(Player(), name="player")
            assert await near.ask(new, Note(1), timeout_s=5) == Count(1)
            with pytest.raises(Unreachable):
                await near.ask(old, Note(1), timeout_s=5)
            anyone = near.ref(new.address, "player")
            assert await near.ask(anyone, Note(1), timeout_s=5) == Count(2)


@simulated
async def test_first_ask_of_an_earlier_life_finds_out_that_it_is_gone(
    world: InstantWorld,
) -> None:
    async with world.open("far") as far:
        old = far.spawn(Player(), name="player")
        async with world.open("far") as again, world.open("near") as near:
            again.spawn(Player(), name="player")
            with pytest.raises(Unreachable, match="lives there now"):
                await near.ask(old, Note(1), timeout_s=5)


@simulated
async def test_cancelling_an_ask_that_cannot_be_taken_back_is_harmless(
    world: InstantWorld,
) -> None:
    async with world.pair() as (near, far):
        player = far.spawn(Player(), name="player")
        waiting = asyncio.ensure_future(near.ask(player, Wait(), timeout_s=5))
        await asyncio.sleep(0.05)
        world.network.endpoints["near"].refusal = SendQueueFull("no room")
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert near.statistics().num_asks_pending == 0


@everywhere
async def test_actor_that_was_told_to_stop_takes_nothing_more(world: World) -> None:
    async with world.pair() as (near, far):
        actor = Player()
        player = far.spawn(actor, name="player")
        near.tell(player, Wait())
        await actor.has_begun_to_wait.wait()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(stop_actor(far, "player"))
            await asyncio.sleep(0)
            with pytest.raises(ActorStopped, match="has stopped"):
                await near.ask(player, Note(1), timeout_s=5)
            actor.gate.set()


@simulated
async def test_asks_of_a_lost_process_are_dropped_before_they_run(world: InstantWorld) -> None:
    async with world.pair() as (near, far):
        actor = Player()
        player = far.spawn(actor, name="player")
        far.tell(player, Wait())
        await actor.has_begun_to_wait.wait()
        waiting = asyncio.ensure_future(near.ask(player, Note(1), timeout_s=5))
        await asyncio.sleep(0.05)
        world.network.lose("near")
        await asyncio.sleep(0.05)
        actor.gate.set()
        assert await far.ask(player, Note(2), timeout_s=5) == Count(1)
        assert actor.notes == [2]
        waiting.cancel()


@simulated
async def test_full_send_queue_rejects_an_ask(world: InstantWorld) -> None:
    async with world.pair() as (near, far):
        player = far.spawn(Player(), name="player")
        await near.ask(player, Note(1), timeout_s=5)
        world.network.endpoints["near"].refusal = SendQueueFull("no room")
        with pytest.raises(Rejected, match="no room"):
            await near.ask(player, Note(1), timeout_s=5)


@simulated
async def test_ask_that_is_too_large_is_the_askers_own_failure(world: InstantWorld) -> None:
    async with world.pair() as (near, far):
        player = far.spawn(Player(), name="player")
        await near.ask(player, Note(1), timeout_s=5)
        world.network.endpoints["near"].refusal = FrameTooLarge("too large")
        with pytest.raises(FrameTooLarge):
            await near.ask(player, Note(1), timeout_s=5)


@simulated
async def test_ask_with_a_message_the_other_does_not_know_is_a_fault(world: InstantWorld) -> None:
    async with world.pair() as (near, far):
        player = far.spawn(Player(), name="player")
        with pytest.raises(RemoteFault, match="unknown message tag"):
            await near.ask(player, Foreign(), timeout_s=5)
        assert far.statistics().dead_letters == {DeadLetter.MALFORMED: 1}


class Confusing(Actor):
    async def receive(self, message: Message, sender: object, buffers: object) -> Message | None:
        return Foreign()


@simulated
async def test_reply_that_the_asker_does_not_know_is_a_fault(world: InstantWorld) -> None:
    async with world.pair() as (near, far):
        actor = far.spawn(Confusing(), name="confusing")
        with pytest.raises(RemoteFault, match="its reply cannot be read"):
            await near.ask(actor, Note(1), timeout_s=5)


@simulated
async def test_reply_that_cannot_be_sent_is_a_dead_letter(world: InstantWorld) -> None:
    async with world.pair() as (near, far):
        player = far.spawn(Player(), name="player")
        await near.ask(player, Note(1), timeout_s=5)
        world.network.endpoints["far"].refusal = SendQueueFull("no room")
        with pytest.raises(AskTimeout):
            await near.ask(player, Note(1), timeout_s=5)
        assert far.statistics().dead_letters == {DeadLetter.QUEUE_FULL: 1}


@simulated
async def test_stopping_system_ends_the_asks_of_its_own(world: InstantWorld) -> None:
    async with world.open("far") as far:
        player = far.spawn(Player(), name="player")
        async with world.open("near") as near:
            waiting = asyncio.ensure_future(near.ask(player, Wait(), timeout_s=1000))
            await asyncio.sleep(0.05)
            await near.stop()
            with pytest.raises(ActorStopped, match="system"):
                await waiting
