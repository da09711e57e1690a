"""Asks that end oddly: of oneself, put off for too long, given up on the way, too large."""

import asyncio
from collections.abc import Sequence

import pytest

from actors.kernel.actor import Actor, LaterReply
from actors.kernel.dead_letters import DeadLetter
from actors.kernel.errors import ActorStopped, AskTimeout, Draining, Rejected, RemoteFault
from actors.kernel.ref import Ref
from tests.actors.kernel.cast import Count, Heard, Note, Player, Relay, Stop, Wait
from tests.actors.kernel.worlds import (
    LARGE,
    InstantWorld,
    World,
    arrived,
    everywhere,
    simulated,
)
from transport.codec import Message
from transport.endpoint import Lane
from transport.errors import FrameTooLarge, SendQueueFull
from transport.frame import Buffer

# --- of oneself


@everywhere
async def test_actor_that_asks_itself_and_waits_times_out_and_goes_on(world: World) -> None:
    async with world.pair() as (near, far):
        actor = Player()
        player = far.spawn(actor, name="player")
        to_itself = Relay(player, timeout_s=0.05)
        assert await near.ask(player, to_itself, timeout_s=5) == Heard("AskTimeout")
        assert await near.ask(player, Note(1), timeout_s=5) == Count(1)
        assert actor.notes == [1]


@simulated
async def test_draining_actor_refuses_its_own_asks(world: InstantWorld) -> None:
    async with world.open("here") as here:
        actor = Player()
        player = here.spawn(actor, name="player")
        here.tell(player, Wait())
        asked = asyncio.ensure_future(
            here.ask(player, Relay(player, timeout_s=50), timeout_s=60, lane=Lane.DATA)
        )
        await actor.has_begun_to_wait.wait()
        drained = asyncio.ensure_future(here.drain("player", 60))
        await asyncio.sleep(0.01)
        actor.gate.set()
        assert await asked == Heard(Draining.__name__)
        assert await drained is True


# --- put off


class Undecided(Player):
    """Puts off the reply to every note."""

    def __init__(self) -> None:
        super().__init__()
        self.owed: list[LaterReply] = []

    async def receive(
        self, message: Message, sender: Ref | None, buffers: Sequence[Buffer]
    ) -> Message | None:
        if isinstance(message, Note):
            self.owed.append(self.context.reply_later())
            return None
        return await super().receive(message, sender, buffers)


@simulated
async def test_drain_waits_for_a_reply_only_until_its_deadline(world: InstantWorld) -> None:
    async with world.pair() as (near, far):
        undecided = Undecided()
        ref = far.spawn(undecided, name="undecided")
        with pytest.raises(AskTimeout):
            await near.ask(ref, Note(1), timeout_s=3)
        assert await far.drain("undecided", 60) is True
        assert asyncio.get_running_loop().time() == pytest.approx(3, abs=0.1)


@simulated
async def test_drain_does_not_wait_for_a_reply_that_nobody_waits_for(world: InstantWorld) -> None:
    async with world.pair() as (near, far):
        ref = far.spawn(Undecided(), name="undecided")
        asked = asyncio.ensure_future(near.ask(ref, Note(1), timeout_s=1000))
        await asyncio.sleep(1)
        drained = asyncio.ensure_future(far.drain("undecided", 500))
        await asyncio.sleep(1)
        asked.cancel()
        assert await drained is True
        assert asyncio.get_running_loop().time() == pytest.approx(2)


@simulated
async def test_reply_after_its_deadline_is_a_dead_letter_where_it_was_put_off(
    world: InstantWorld,
) -> None:
    async with world.pair() as (near, far):
        undecided = Undecided()
        ref = far.spawn(undecided, name="undecided")
        with pytest.raises(AskTimeout):
            await near.ask(ref, Note(1), timeout_s=3)
        await asyncio.sleep(1)
        undecided.owed[0].reply(Count(1))
        assert far.statistics().dead_letters == {DeadLetter.CANCELLED: 1}


# --- the end of an actor is nobody's ask


class Parting(Player):
    """Asks once more while it stops."""

    def __init__(self, friend: Ref) -> None:
        super().__init__()
        self.friend = friend
        self.answer: Message | None = None

    async def receive(
        self, message: Message, sender: Ref | None, buffers: Sequence[Buffer]
    ) -> Message | None:
        if isinstance(message, Stop):
            await asyncio.sleep(10)
        return await super().receive(message, sender, buffers)

    async def on_stop(self) -> None:
        self.answer = await self.context.ask(self.friend, Note(1), timeout_s=5)


@simulated
async def test_actor_that_stops_is_not_bound_by_the_deadline_of_the_last_ask(
    world: InstantWorld,
) -> None:
    async with world.open("here") as here:
        parting = Parting(here.spawn(Player(), name="friend"))
        ref = here.spawn(parting, name="parting")
        with pytest.raises(AskTimeout):
            await here.ask(ref, Stop(), timeout_s=5)
        await asyncio.sleep(10)
        assert parting.answer == Count(1)


# --- on the way


@simulated
async def test_ask_given_up_while_its_process_is_dialled_is_not_sent(world: InstantWorld) -> None:
    async with world.pair() as (near, far):
        actor = Player()
        player = far.spawn(actor, name="player")
        with pytest.raises(AskTimeout):
            await near.ask(player, Note(1), timeout_s=0.005)  # the wire takes twice as long
        assert await near.ask(player, Note(2), timeout_s=5) == Count(1)
        assert actor.notes == [2]
        assert far.statistics().dead_letters == {}


@simulated
async def test_ask_that_finds_the_queue_full_once_connected_is_rejected(
    world: InstantWorld,
) -> None:
    async with world.pair() as (near, far):
        player = far.spawn(Player(), name="player")
        asked = asyncio.ensure_future(near.ask(player, Note(1), timeout_s=5))
        await asyncio.sleep(0)
        world.network.endpoints["near"].refusal = SendQueueFull("no room")
        with pytest.raises(Rejected, match="no room"):
            await asked


@simulated
async def test_taking_an_ask_back_does_not_overtake_it(world: InstantWorld) -> None:
    async with world.pair(LARGE) as (near, far):
        actor = Player()
        player = far.spawn(actor, name="player")
        near.tell(player, Wait())
        await actor.has_begun_to_wait.wait()
        asked = asyncio.ensure_future(near.ask(player, Note(1), timeout_s=5, lane=Lane.DATA))
        await asyncio.sleep(0)
        asked.cancel()
        await arrived(near, far)
        lanes = [lane for _, _, lane in world.network.endpoints["near"].sent[-4:-2]]
        assert lanes == [Lane.DATA, Lane.DATA]
        actor.gate.set()
        assert await near.ask(player, Note(2), timeout_s=5) == Count(1)
        assert actor.notes == [2]


@simulated
async def test_reply_that_is_too_large_is_a_fault(world: InstantWorld) -> None:
    class Bulky(Actor):
        async def receive(self, message: Message, sender: object, buffers: object) -> Message:
            endpoint = world.network.endpoints["far"]
            endpoint.refusals = [FrameTooLarge("2 bytes, the bound is 1")]
            return Count(1)

    async with world.pair() as (near, far):
        ref = far.spawn(Bulky(), name="bulky")
        with pytest.raises(RemoteFault, match=r"FrameTooLarge: its reply: 2 bytes"):
            await near.ask(ref, Note(1), timeout_s=5)
        assert far.statistics().dead_letters == {DeadLetter.TOO_LARGE: 1}


@simulated
async def test_asks_end_when_the_owner_does_not_wait_for_graces(world: InstantWorld) -> None:
    asked: list[asyncio.Future[Message]] = []
    busy = Player()

    async def own(elsewhere: Ref) -> None:
        async with world.open("near") as near:
            near.tell(near.spawn(busy, name="busy"), Wait())
            asked.append(asyncio.ensure_future(near.ask(elsewhere, Wait(), timeout_s=1000)))
            await asyncio.Event().wait()

    async with world.open("far") as far:
        owner = asyncio.ensure_future(own(far.spawn(Player(), name="player")))
        await asyncio.sleep(1)
        owner.cancel()  # begins to stop, and waits for the busy one's grace
        await asyncio.sleep(1)
        owner.cancel()
        with pytest.raises(ActorStopped, match="system has stopped"):
            await asked[0]
        with pytest.raises(asyncio.CancelledError):
            await owner
