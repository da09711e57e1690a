"""An ask ends in exactly one way, wherever the actor is."""

import asyncio

import pytest

from actors.kernel.actor import Actor, LaterReply
from actors.kernel.dead_letters import DeadLetter
from actors.kernel.envelope import Ack
from actors.kernel.errors import ActorStopped, Draining, Rejected, RemoteFault
from actors.kernel.supervision import TEMPORARY
from tests.actors.kernel.cast import Count, Fail, Note, Player, Stop, Wait
from tests.actors.kernel.worlds import World, arrived, everywhere
from tests.support.stopping import stop_actor
from transport.codec import Message
from transport.endpoint import Lane


@everywhere
async def test_ask_returns_what_the_actor_returned(world: World) -> None:
    async with world.pair() as (near, far):
        player = far.spawn(Player(), name="player")
        assert await near.ask(player, Note(7), timeout_s=5) == Count(1)
        assert await near.ask(player, Note(8), timeout_s=5) == Count(2)
        assert near.statistics().num_asks_pending == 0


@everywhere
async def test_ask_of_an_actor_with_nothing_to_say_is_acknowledged(world: World) -> None:
    async with world.pair() as (near, far):
        player = far.spawn(Player(), name="player")
        assert await near.ask(player, Stop(), timeout_s=5) == Ack()


@everywhere
async def test_many_asks_at_once_get_each_their_own_reply(world: World) -> None:
    async with world.pair() as (near, far):
        player = far.spawn(Player(), name="player")
        asks = [near.ask(player, Note(n), timeout_s=5) for n in range(8)]
        assert await asyncio.gather(*asks) == [Count(n) for n in range(1, 9)]


@everywhere
async def test_failure_of_the_actor_reaches_the_asker_as_text(world: World) -> None:
    async with world.pair() as (near, far):
        player = far.spawn(Player(), name="player", supervision=TEMPORARY)
        with pytest.raises(RemoteFault, match="ValueError: too bad") as caught:
            await near.ask(player, Fail("too bad"), timeout_s=5)
        assert (caught.value.type_name, caught.value.text) == ("ValueError", "too bad")
        assert "in receive" in caught.value.traceback


@everywhere
async def test_ask_of_an_unknown_actor_says_that_it_is_not_there(world: World) -> None:
    async with world.pair() as (near, far):
        with pytest.raises(ActorStopped, match="'nobody'"):
            await near.ask(far.local_ref("nobody"), Note(1), timeout_s=5)


@everywhere
async def test_ask_of_an_earlier_start_does_not_reach_the_next(world: World) -> None:
    async with world.pair() as (near, far):
        first = far.spawn(Player(), name="player")
        await stop_actor(far, "player")
        second = far.spawn(Player(), name="player")
        with pytest.raises(ActorStopped):
            await near.ask(first, Note(1), timeout_s=5)
        assert await near.ask(second, Note(1), timeout_s=5) == Count(1)
        assert await near.ask(far.local_ref("player"), Note(1), timeout_s=5) == Count(2)


@everywhere
async def test_asks_that_wait_when_the_actor_ends_are_told_so(world: World) -> None:
    async with world.pair() as (near, far):
        actor = Player()
        player = far.spawn(actor, name="player", supervision=TEMPORARY)
        near.tell(player, Wait())
        await actor.has_begun_to_wait.wait()
        asks = [near.ask(player, message, timeout_s=5) for message in (Fail("why"), Note(1))]
        waiting = asyncio.gather(*asks, return_exceptions=True)
        near.tell(player, Note(1))
        await arrived(near, far)
        actor.gate.set()
        failed, stopped = await waiting
        assert isinstance(failed, RemoteFault)
        assert isinstance(stopped, ActorStopped)
        assert "ValueError: why" in str(stopped)


@everywhere
async def test_full_mailbox_rejects_an_ask_that_may_be_tried_again(world: World) -> None:
    async with world.pair() as (near, far):
        actor = Player()
        player = far.spawn(actor, name="player")
        near.tell(player, Wait())
        await actor.has_begun_to_wait.wait()
        asks = [near.ask(player, Note(n), timeout_s=5) for n in range(10)]
        waiting = asyncio.gather(*asks, return_exceptions=True)
        await arrived(near, far)
        actor.gate.set()
        outcomes = await waiting
        assert [type(outcome) for outcome in outcomes] == [Count] * 8 + [Rejected] * 2
        assert not isinstance(outcomes[-1], Draining)


@everywhere
async def test_draining_actor_rejects_asks_and_finishes_what_it_took(world: World) -> None:
    async with world.pair() as (near, far):
        actor = Player()
        player = far.spawn(actor, name="player")
        near.tell(player, Wait())
        await actor.has_begun_to_wait.wait()
        async with asyncio.TaskGroup() as tasks:
            taken = tasks.create_task(near.ask(player, Note(1), timeout_s=5))
            await arrived(near, far)
            drained = tasks.create_task(far.drain("player", 5))
            await asyncio.sleep(0)
            with pytest.raises(Draining):
                await near.ask(player, Note(2), timeout_s=5)
            near.tell(player, Note(3))
            await arrived(near, far)
            actor.gate.set()
        assert taken.result() == Count(1)
        assert drained.result() is True
        assert actor.notes == [1, 3]
        with pytest.raises(ActorStopped):
            await near.ask(player, Note(4), timeout_s=5)


@everywhere
async def test_cancelled_ask_is_not_run_if_it_still_waits(world: World) -> None:
    async with world.pair() as (near, far):
        actor = Player()
        player = far.spawn(actor, name="player")
        near.tell(player, Wait())
        await actor.has_begun_to_wait.wait()
        async with asyncio.TaskGroup() as tasks:
            regretted = tasks.create_task(near.ask(player, Note(1), timeout_s=5))
            kept = tasks.create_task(near.ask(player, Note(2), timeout_s=5))
            await arrived(near, far)
            regretted.cancel()
            await arrived(near, far)
            actor.gate.set()
        assert kept.result() == Count(1)
        assert actor.notes == [2]
        assert far.statistics().dead_letters == {DeadLetter.CANCELLED: 1}


@everywhere
async def test_cancelled_ask_that_runs_already_runs_to_its_end(world: World) -> None:
    async with world.pair() as (near, far):
        actor = Player()
        player = far.spawn(actor, name="player")
        async with asyncio.TaskGroup() as tasks:
            regretted = tasks.create_task(near.ask(player, Wait(), timeout_s=5))
            await actor.has_begun_to_wait.wait()
            regretted.cancel()
            await arrived(near, far)
            actor.gate.set()
        assert await near.ask(player, Note(1), timeout_s=5) == Count(1)
        assert far.statistics().dead_letters == {DeadLetter.CANCELLED: 1}


class Postponing(Actor):
    """Answers an ask only when the next message comes, and that one with a plain reply."""

    def __init__(self) -> None:
        self.later: LaterReply | None = None

    async def receive(self, message: Message, sender: object, buffers: object) -> Message | None:
        if isinstance(message, Stop):
            self.context.stop()
        elif self.later is None:
            self.later = self.context.reply_later()
        else:
            self.later.reply(Count(1))
            self.later.reply(Count(99))
        return Count(2)


@everywhere
async def test_reply_that_was_put_off_reaches_the_asker_once(world: World) -> None:
    async with world.pair() as (near, far):
        actor = far.spawn(Postponing(), name="postponing")
        async with asyncio.TaskGroup() as tasks:
            first = tasks.create_task(near.ask(actor, Note(0), timeout_s=5))
            await arrived(near, far)
            second = tasks.create_task(near.ask(actor, Note(0), timeout_s=5))
        assert (first.result(), second.result()) == (Count(1), Count(2))
        assert near.statistics().dead_letters == {}


@everywhere
async def test_put_off_reply_that_never_came_ends_with_the_actor(world: World) -> None:
    async with world.pair() as (near, far):
        actor = far.spawn(Postponing(), name="postponing")
        waiting = asyncio.ensure_future(near.ask(actor, Note(0), timeout_s=5))
        await arrived(near, far)
        near.tell(actor, Stop())
        with pytest.raises(ActorStopped, match="normal"):
            await waiting


@everywhere
async def test_reply_to_a_tell_that_is_put_off_goes_nowhere(world: World) -> None:
    async with world.pair() as (near, far):
        actor = far.spawn(Postponing(), name="postponing")
        near.tell(actor, Note(0), lane=Lane.CONTROL)
        assert await near.ask(actor, Note(0), timeout_s=5) == Count(2)
