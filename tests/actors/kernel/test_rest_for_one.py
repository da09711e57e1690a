"""An actor's failure restarts those that were spawned after it."""

import asyncio
from collections.abc import Sequence

from actors.kernel.cell import State
from actors.kernel.ref import Ref
from actors.kernel.supervision import (
    TEMPORARY,
    Strategy,
    Supervision,
)
from tests.actors.kernel.cast import Count, Fail, Note, Player
from tests.actors.kernel.troupe import SOON, Troupe
from tests.actors.kernel.worlds import InstantWorld, simulated
from tests.support.stopping import stop_actor
from transport.codec import Message
from transport.frame import Buffer

REST = Supervision(strategy=Strategy.REST_FOR_ONE)


@simulated
async def test_rest_for_one_restarts_those_spawned_later_and_no_others(
    world: InstantWorld,
) -> None:
    async with world.open("here") as here:
        troupe = Troupe(here)
        for name in ("first", "second", "third", "fourth"):
            troupe.spawn(name, REST)
        await asyncio.sleep(0)
        troupe.log.clear()
        troupe.tell("second", Fail("oh"))
        await asyncio.sleep(SOON)
        assert troupe.log == [
            "failure second: oh",
            "stop second",
            "stop fourth",
            "stop third",
            "start second",
            "start third",
            "start fourth",
        ]
        assert troupe.num_restarts() == {"first": 0, "second": 1, "third": 1, "fourth": 1}


@simulated
async def test_rest_for_one_ends_those_that_cannot_be_made_again(world: InstantWorld) -> None:
    async with world.open("here") as here:
        troupe = Troupe(here)
        troupe.spawn("first", REST)
        troupe.spawn("temporary", TEMPORARY)
        here.spawn(Player(), name="once")
        troupe.spawn("last", REST)
        troupe.tell("first", Fail("oh"))
        await asyncio.sleep(SOON)
        assert troupe.num_restarts() == {"first": 1, "last": 1}


@simulated
async def test_rest_for_one_that_is_stopped_in_between_ends_them_all(world: InstantWorld) -> None:
    async with world.open("here") as here:
        troupe = Troupe(here)
        slow = Supervision(strategy=Strategy.REST_FOR_ONE, backoff_s=1000, max_backoff_s=1000)
        for name in ("first", "second", "third"):
            troupe.spawn(name, slow)
        troupe.tell("first", Fail("oh"))
        await asyncio.sleep(SOON)
        await stop_actor(here, "first")
        assert here.statistics().actors == ()
        troupe.spawn("second")


@simulated
async def test_rest_for_one_of_two_that_fail_at_once_restarts_each_once(
    world: InstantWorld,
) -> None:
    async with world.open("here") as here:
        troupe = Troupe(here)
        for name in ("first", "second", "third"):
            troupe.spawn(name, REST)
        troupe.tell("second", Fail("oh"))
        troupe.tell("first", Fail("oh"))
        await asyncio.sleep(SOON)
        third = here.local_ref("third")
        assert await here.ask(third, Note(1), timeout_s=5) == Count(1)
        states = {actor.state for actor in here.statistics().actors}
        assert (len(here.statistics().actors), states) == (3, {State.READY})


class Stubborn(Player):
    """Works on although it is cancelled."""

    async def receive(
        self, message: Message, sender: Ref | None, buffers: Sequence[Buffer]
    ) -> Message | None:
        try:
            await asyncio.sleep(1000)
        except asyncio.CancelledError:
            await asyncio.sleep(100)
        return None


@simulated
async def test_younger_that_ignores_its_killing_does_not_take_the_place_of_its_next_start(
    world: InstantWorld,
) -> None:
    async with world.open("here") as here:
        makers = iter([Stubborn, Player])
        troupe = Troupe(here)
        troupe.spawn("first", REST)
        younger = Supervision(stop_grace_s=1)
        here.tell(here.spawn(lambda: next(makers)(), name="second", supervision=younger), Note(1))
        await asyncio.sleep(SOON)
        troupe.tell("first", Fail("oh"))
        await asyncio.sleep(200)  # the first start of the second has ended long after its killing
        second = here.local_ref("second")
        assert await here.ask(second, Note(1), timeout_s=5) == Count(1)
        assert [actor.name for actor in here.statistics().actors] == ["first", "second"]
        await stop_actor(here, "second")
        here.spawn(Player(), name="second")
