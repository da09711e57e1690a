"""An ask ends in exactly one way, wherever the actor is."""

import asyncio

import pytest

from actors.kernel.actor import Actor, LaterReply
from actors.kernel.dead_letters import DeadLetter
from actors.kernel.envelope import Ack
from actors.kernel.errors import ActorStopped, AskTimeout, Draining, Rejected, RemoteFault
from actors.kernel.supervision import TEMPORARY
from tests.actors.kernel.cast import Count, Fail, Foreign, Heard, Note, Player, Relay, Stop, Wait
from tests.actors.kernel.worlds import InstantWorld, World, arrived, everywhere, simulated
from transport.codec import Message
from transport.endpoint import Lane
from transport.errors import FrameTooLarge, SendQueueFull, Unreachable


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
        await far.stop_actor("player")
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


# --- deadlines


@simulated
async def test_ask_without_a_reply_ends_at_its_deadline(world: InstantWorld) -> None:
    async with world.pair() as (near, far):
        player = far.spawn(Player(), name="player")
        with pytest.raises(AskTimeout):
            await near.ask(player, Wait(), timeout_s=3)
        assert asyncio.get_running_loop().time() == pytest.approx(3)


@simulated
async def test_reply_after_the_deadline_is_dropped_and_counted(world: InstantWorld) -> None:
    async with world.pair() as (near, far):
        actor = Player()
        player = far.spawn(actor, name="player")
        with pytest.raises(AskTimeout):
            await near.ask(player, Wait(), timeout_s=3)
        actor.gate.set()
        assert await near.ask(player, Note(1), timeout_s=3) == Count(1)
        assert near.statistics().dead_letters == {DeadLetter.LATE_REPLY: 1}


@simulated
async def test_ask_whose_deadline_passed_in_the_mailbox_is_not_run(world: InstantWorld) -> None:
    async with world.pair() as (near, far):
        actor = Player()
        player = far.spawn(actor, name="player")
        near.tell(player, Wait())
        await actor.has_begun_to_wait.wait()
        with pytest.raises(AskTimeout):
            await near.ask(player, Note(1), timeout_s=3)
        actor.gate.set()
        assert await near.ask(player, Note(2), timeout_s=3) == Count(1)
        assert actor.notes == [2]
        assert far.statistics().dead_letters == {DeadLetter.EXPIRED: 1}


@simulated
async def test_nested_ask_ends_no_later_than_the_ask_being_handled(world: InstantWorld) -> None:
    async with world.pair() as (near, far), world.open("third") as third:
        stuck = Player()
        target = third.spawn(stuck, name="stuck")
        far.tell(target, Wait())
        relay = far.spawn(Player(), name="relay")
        await stuck.has_begun_to_wait.wait()
        with pytest.raises(AskTimeout):
            await near.ask(relay, Relay(target, timeout_s=1000), timeout_s=3)
        assert await near.ask(relay, Note(1), timeout_s=3) == Count(1)
        assert asyncio.get_running_loop().time() < 4


@simulated
async def test_nested_ask_keeps_its_own_deadline_if_that_is_earlier(world: InstantWorld) -> None:
    async with world.pair() as (near, far):
        stuck = Player()
        target = near.spawn(stuck, name="stuck")
        near.tell(target, Wait())
        relay = far.spawn(Player(), name="relay")
        answer = await near.ask(relay, Relay(target, timeout_s=1), timeout_s=30)
        assert answer == Heard("AskTimeout")


class Delegating(Actor):
    """Asks in a task of its own, which outlives the message that started it."""

    def __init__(self) -> None:
        self.answer: Message | None = None

    async def receive(self, message: Message, sender: object, buffers: object) -> Message | None:
        if isinstance(message, Relay):
            self.context.start_task(self._ask(message))
        return None

    async def _ask(self, message: Relay) -> None:
        self.answer = await self.context.ask(message.to, Note(0), timeout_s=message.timeout_s)


@simulated
async def test_task_of_an_actor_does_not_inherit_a_deadline(world: InstantWorld) -> None:
    async with world.pair() as (near, far):
        slow, delegating = Player(), Delegating()
        target = near.spawn(slow, name="slow")
        near.tell(target, Wait())
        actor = far.spawn(delegating, name="delegating")
        await near.ask(actor, Relay(target, timeout_s=60), timeout_s=1)
        await asyncio.sleep(30)
        slow.gate.set()
        await slow.wait_notes(1)
        await asyncio.sleep(1)
        assert delegating.answer == Count(1)


@simulated
async def test_ask_without_time_left_is_not_even_sent(world: InstantWorld) -> None:
    async with world.pair() as (near, far):
        player = far.spawn(Player(), name="player")
        with pytest.raises(AskTimeout, match="no time left"):
            await near.ask(player, Note(1), timeout_s=0)
        assert far.statistics().actors[0].num_handled == 0


# --- the process of the actor


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
            tasks.create_task(far.stop_actor("player"))
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
