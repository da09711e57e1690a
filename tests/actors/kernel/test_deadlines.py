"""An ask ends at its deadline, and all that was begun for it as well."""

import asyncio

import pytest

from actors.kernel.actor import Actor
from actors.kernel.dead_letters import DeadLetter
from actors.kernel.errors import AskTimeout
from tests.actors.kernel.cast import Count, Heard, Note, Player, Relay, Wait
from tests.actors.kernel.worlds import InstantWorld, simulated
from transport.codec import Message


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
