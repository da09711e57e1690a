"""Actors fail, start again, or hand their failure up."""

import asyncio
from collections.abc import Sequence

import pytest

from actors.kernel.actor import Actor
from actors.kernel.cell import State
from actors.kernel.errors import (
    ActorFailed,
    ActorStopped,
    NameTaken,
    RemoteFault,
    RestartLimitReached,
)
from actors.kernel.ref import Ref
from actors.kernel.supervision import (
    TEMPORARY,
    Restart,
    Strategy,
    Supervision,
)
from tests.actors.kernel.cast import Count, Fail, Note, Player, Stop
from tests.actors.kernel.troupe import SOON, Parent, Troupe
from tests.actors.kernel.worlds import InstantWorld, simulated
from tests.support.stopping import stop_actor
from transport.codec import Message
from transport.frame import Buffer

REST = Supervision(strategy=Strategy.REST_FOR_ONE)


# --- one for one


@simulated
async def test_actor_that_fails_starts_again_fresh(world: InstantWorld) -> None:
    async with world.open("here") as here:
        troupe = Troupe(here)
        troupe.spawn("player", Supervision())
        name = here.local_ref("player")
        assert await here.ask(name, Note(1), timeout_s=5) == Count(1)
        troupe.tell("player", Fail("oh"))
        await asyncio.sleep(SOON)
        assert await here.ask(name, Note(1), timeout_s=5) == Count(1)
        assert troupe.log == ["start player", "failure player: oh", "stop player", "start player"]
        assert troupe.num_restarts() == {"player": 1}


@simulated
async def test_actor_is_not_there_while_it_waits_to_start_again(world: InstantWorld) -> None:
    async with world.open("here") as here:
        troupe = Troupe(here)
        troupe.spawn("player", Supervision(backoff_s=10, max_backoff_s=10))
        troupe.tell("player", Fail("oh"))
        await asyncio.sleep(SOON)
        with pytest.raises(ActorStopped):
            await here.ask(here.local_ref("player"), Note(1), timeout_s=5)
        with pytest.raises(NameTaken):
            troupe.spawn("player")
        (statistics,) = here.statistics().actors
        assert (statistics.name, statistics.state) == ("player", State.STOPPED)


@simulated
async def test_actor_that_waits_to_start_again_stops_at_once(world: InstantWorld) -> None:
    async with world.open("here") as here:
        troupe = Troupe(here)
        troupe.spawn("player", Supervision(backoff_s=1000, max_backoff_s=1000))
        troupe.tell("player", Fail("oh"))
        await asyncio.sleep(SOON)
        await stop_actor(here, "player")
        assert here.statistics().actors == ()
        assert asyncio.get_running_loop().time() == SOON


@simulated
async def test_permanent_actor_starts_again_even_when_its_work_is_done(
    world: InstantWorld,
) -> None:
    async with world.open("here") as here:
        troupe = Troupe(here)
        troupe.spawn("permanent", Supervision(restart=Restart.PERMANENT))
        troupe.spawn("transient", Supervision(restart=Restart.TRANSIENT))
        troupe.tell("permanent", Stop())
        troupe.tell("transient", Stop())
        await asyncio.sleep(SOON)
        assert troupe.num_restarts() == {"permanent": 1}


@simulated
async def test_temporary_actor_fails_alone_and_for_good(world: InstantWorld) -> None:
    async with world.open("here") as here:
        troupe = Troupe(here)
        troupe.spawn("temporary", TEMPORARY)
        troupe.tell("temporary", Fail("oh"))
        await asyncio.sleep(SOON)
        assert here.statistics().actors == ()


class BadStarter(Player):
    """Fails to start until it is lucky."""

    def __init__(self, log: list[str], luck: list[bool]) -> None:
        super().__init__(log)
        self.luck = luck

    async def on_start(self) -> None:
        await super().on_start()
        if not self.luck.pop():
            raise OSError("bad luck")


@simulated
async def test_actor_that_fails_to_start_fails_but_has_nothing_to_stop(
    world: InstantWorld,
) -> None:
    async with world.open("here") as here:
        log, luck = list[str](), [True, False, False]
        here.spawn(lambda: BadStarter(log, luck), name="starter", supervision=Supervision())
        await asyncio.sleep(SOON)
        tried = ["start starter", "failure starter: bad luck"]
        assert log == [*tried, *tried, "start starter"]


class Abandoned(Player):
    """Waits for something that is cancelled."""

    async def receive(
        self, message: Message, sender: Ref | None, buffers: Sequence[Buffer]
    ) -> Message | None:
        future = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_later(1, future.cancel)
        await future
        return None


@simulated
async def test_actor_whose_wait_is_cancelled_by_others_fails_and_is_not_lost(
    world: InstantWorld,
) -> None:
    async with world.open("here") as here:
        abandoned = here.spawn(Abandoned, name="abandoned", supervision=Supervision())
        with pytest.raises(RemoteFault, match="was cancelled"):
            await here.ask(abandoned, Note(1), timeout_s=5)
        await asyncio.sleep(SOON)
        (statistics,) = here.statistics().actors
        assert (statistics.num_restarts, statistics.state) == (1, State.READY)


@simulated
async def test_actor_that_handles_nothing_fails_with_its_first_message(
    world: InstantWorld,
) -> None:
    async with world.open("here") as here:
        actor = here.spawn(Actor(), name="actor", supervision=TEMPORARY)
        with pytest.raises(RemoteFault, match="NotImplementedError"):
            await here.ask(actor, Note(1), timeout_s=5)


@simulated
async def test_actor_that_cannot_be_made_again_fails_like_any_other(world: InstantWorld) -> None:
    makers = [Player, Player]

    def make() -> Player:
        return makers.pop()()

    async def live() -> None:
        async with world.open("here") as here:
            here.spawn(make, name="player", supervision=Supervision())
            here.tell(here.local_ref("player"), Fail("once"))
            await asyncio.sleep(SOON)
            here.tell(here.local_ref("player"), Fail("twice"))
            await asyncio.sleep(1000)

    with pytest.raises(RestartLimitReached, match="pop from empty list"):
        await live()


@simulated
async def test_actor_that_cannot_be_made_at_all_fails_its_spawner(world: InstantWorld) -> None:
    async with world.open("here") as here:
        with pytest.raises(ZeroDivisionError):
            here.spawn(lambda: [Player()][1 // 0], name="player", supervision=Supervision())
        here.spawn(Player(), name="player")


@simulated
async def test_actor_itself_cannot_be_spawned_to_be_restarted(world: InstantWorld) -> None:
    async with world.open("here") as here:
        for supervision in (Supervision(), REST, Supervision(restart=Restart.PERMANENT)):
            with pytest.raises(ValueError, match="spawn what makes it"):
                here.spawn(Player(), name="player", supervision=supervision)


@simulated
async def test_name_belongs_to_one_living_actor(world: InstantWorld) -> None:
    async with world.open("here") as here:
        here.spawn(Player(), name="player")
        with pytest.raises(NameTaken, match="'player'"):
            here.spawn(Player(), name="player")


# --- escalation


@pytest.mark.parametrize("name", ["", "x" * 257])
def test_name_that_cannot_travel_is_refused(name: str) -> None:
    @simulated
    async def scenario(world: InstantWorld) -> None:
        async with world.open("here") as here:
            with pytest.raises(ValueError, match=f"got {len(name)}"):
                here.spawn(Player(), name=name)
            assert here.statistics().actors == ()

    scenario()


@simulated
async def test_failure_that_nobody_takes_care_of_ends_the_system(world: InstantWorld) -> None:
    async def live() -> None:
        async with world.open("here") as here:
            Troupe(here).spawn("player")
            here.tell(here.local_ref("player"), Fail("oh"))
            await asyncio.Event().wait()

    with pytest.raises(ActorFailed, match="actor 'player' failed: ValueError: oh") as caught:
        await live()
    assert isinstance(caught.value.__cause__, ValueError)


@simulated
async def test_actor_that_fails_too_often_hands_its_failure_up(world: InstantWorld) -> None:
    supervision = Supervision(max_restarts=3, period_s=60)

    async def live() -> None:
        async with world.open("here") as here:
            troupe = Troupe(here)
            troupe.spawn("player", supervision)
            for number in range(5):
                troupe.tell("player", Fail(f"oh {number}"))
                await asyncio.sleep(SOON)

    with pytest.raises(RestartLimitReached, match=r"after 3 restarts in 60 s .*oh 3"):
        await live()


@simulated
async def test_child_that_fails_takes_its_parent_along_in_order(world: InstantWorld) -> None:
    async with world.open("here") as here:
        log: list[str] = []
        here.spawn(lambda: Parent(log), name="parent", supervision=TEMPORARY)
        await asyncio.sleep(0.1)
        here.tell(here.local_ref("elder"), Fail("oh"))
        await asyncio.sleep(0.1)
        assert here.statistics().actors == ()
        assert log == [
            "start parent",
            "start elder",
            "start younger",
            "failure elder: oh",
            "stop elder",
            "stop younger",
            "failure parent: actor 'elder' failed: ValueError: oh",
            "stop parent",
        ]


@simulated
async def test_parent_that_starts_again_starts_its_children_again(world: InstantWorld) -> None:
    async with world.open("here") as here:
        log: list[str] = []
        here.spawn(lambda: Parent(log), name="parent", supervision=Supervision())
        await asyncio.sleep(0.1)
        here.tell(here.local_ref("younger"), Fail("oh"))
        await asyncio.sleep(SOON)
        names = [actor.name for actor in here.statistics().actors]
        assert sorted(names) == ["elder", "parent", "younger"]
        assert await here.ask(here.local_ref("younger"), Note(1), timeout_s=5) == Count(1)


@simulated
async def test_parent_outlives_a_child_that_it_restarts(world: InstantWorld) -> None:
    async with world.open("here") as here:
        log: list[str] = []
        here.spawn(Parent(log, Supervision()), name="parent")
        await asyncio.sleep(0.1)
        here.tell(here.local_ref("elder"), Fail("oh"))
        await asyncio.sleep(SOON)
        restarts = {actor.name: actor.num_restarts for actor in here.statistics().actors}
        assert restarts == {"parent": 0, "elder": 1, "younger": 0}
