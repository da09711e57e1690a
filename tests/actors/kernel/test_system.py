"""A system starts empty, ends in order, and tells why."""

import asyncio
import doctest

import pytest

import actors.kernel.actor
from actors.kernel.cell import State
from actors.kernel.errors import ActorFailed, ActorStopped
from actors.kernel.statistics import ActorStatistics
from actors.kernel.supervision import TEMPORARY
from tests.actors.kernel.cast import Fail, Note, Player, Wait
from tests.actors.kernel.worlds import InstantWorld, simulated
from transport.errors import EndpointClosed


@simulated
async def test_failure_of_the_body_comes_out_after_the_actors_were_stopped(
    world: InstantWorld,
) -> None:
    player = Player()

    async def live() -> None:
        async with world.open("here") as here:
            here.spawn(player, name="player")
            await asyncio.sleep(0)
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        await live()
    assert player.log == ["start player", "stop player"]


@simulated
async def test_failure_of_the_body_comes_before_that_of_an_actor(world: InstantWorld) -> None:
    async def live() -> None:
        async with world.open("here") as here:
            here.tell(here.spawn(Player(), name="player"), Fail("too bad"))
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                raise KeyError("mine") from None

    with pytest.raises(KeyError, match="mine"):
        await live()


@simulated
async def test_failure_of_an_actor_comes_out_of_a_body_that_ended_by_itself(
    world: InstantWorld,
) -> None:
    async def live() -> None:
        async with world.open("here") as here:
            player = here.spawn(Player(), name="player")
            here.tell(player, Fail("too bad"))
            with pytest.raises(asyncio.CancelledError):
                await asyncio.Event().wait()

    with pytest.raises(ActorFailed):
        await live()


@simulated
async def test_failure_while_the_system_stops_comes_out(world: InstantWorld) -> None:
    async def live() -> None:
        async with world.open("here") as here:
            failing, slow = Player(), Player()
            here.tell(here.spawn(failing, name="failing"), Wait())
            here.tell(here.local_ref("failing"), Fail("too bad"))
            here.tell(here.spawn(slow, name="slow"), Wait())
            await slow.has_begun_to_wait.wait()
            loop = asyncio.get_running_loop()
            loop.call_later(1, failing.gate.set)
            loop.call_later(2, slow.gate.set)

    with pytest.raises(ActorFailed, match="too bad"):
        await live()


@simulated
async def test_second_failure_does_not_hide_the_first(world: InstantWorld) -> None:
    async def live() -> None:
        async with world.open("here") as here:
            for name in ("first", "second"):
                here.tell(here.spawn(Player(), name=name), Fail(name))
            await asyncio.Event().wait()

    with pytest.raises(ActorFailed, match="first"):
        await live()


@simulated
async def test_cancelling_the_owner_stops_the_actors_and_stays_a_cancellation(
    world: InstantWorld,
) -> None:
    player = Player()

    async def own() -> None:
        async with world.open("here") as here:
            here.spawn(player, name="player")
            await asyncio.Event().wait()

    owner = asyncio.ensure_future(own())
    await asyncio.sleep(1)
    owner.cancel()
    with pytest.raises(asyncio.CancelledError):
        await owner
    assert player.log == ["start player", "stop player"]


@simulated
async def test_cancelling_the_owner_again_does_not_wait_for_graces(world: InstantWorld) -> None:
    player = Player()

    async def own() -> None:
        async with world.open("here") as here:
            here.tell(here.spawn(player, name="player"), Wait())
            await asyncio.Event().wait()

    owner = asyncio.ensure_future(own())
    await asyncio.sleep(1)
    owner.cancel()
    await asyncio.sleep(1)
    owner.cancel()
    with pytest.raises(asyncio.CancelledError):
        await owner
    assert asyncio.get_running_loop().time() == pytest.approx(2)


@simulated
async def test_endpoint_that_closes_under_the_system_ends_it(world: InstantWorld) -> None:
    async def live() -> None:
        async with world.open("here") as here:
            here.spawn(Player(), name="player")
            world.network.endpoints["here"].events.put_nowait(EndpointClosed("closed"))
            await here.wait_stopped()

    with pytest.raises(EndpointClosed):
        await live()


@simulated
async def test_waiting_for_the_end_ends_with_the_actors(world: InstantWorld) -> None:
    async with world.open("here") as here, asyncio.TaskGroup() as tasks:
        player = Player()
        here.spawn(player, name="player")
        await asyncio.sleep(0)
        waiting = tasks.create_task(here.wait_stopped())
        await asyncio.sleep(1)
        assert not waiting.done()
        await here.stop()
        await waiting
        assert player.log == ["start player", "stop player"]


@simulated
async def test_stopped_system_starts_no_actors_and_loses_tells(world: InstantWorld) -> None:
    async with world.open("here") as here:
        player = here.spawn(Player(), name="player")
        await here.stop()
        with pytest.raises(ActorStopped, match="stopping"):
            here.spawn(Player(), name="other")
        here.tell(player, Note(1))
        assert here.statistics().dead_letters == {"stopped": 1}


@simulated
async def test_statistics_tell_how_actors_stand(world: InstantWorld) -> None:
    async with world.open("here") as here:
        actor = Player()
        player = here.spawn(actor, name="player", supervision=TEMPORARY)
        here.tell(player, Note(1))
        here.tell(player, Wait())
        await actor.has_begun_to_wait.wait()
        here.tell(player, Note(2), buffers=(b"abc",))
        waiting = asyncio.ensure_future(here.ask(player, Note(3), timeout_s=5))
        await asyncio.sleep(0)
        statistics = here.statistics()
        assert statistics.num_asks_pending == 1
        assert statistics.actors == (
            ActorStatistics(
                name="player",
                generation=player.generation,
                state=State.READY,
                num_waiting=2,
                num_waiting_bytes=3,
                num_handled=1,
                num_restarts=0,
            ),
        )
        actor.gate.set()
        await waiting


def test_example_of_an_actor_runs() -> None:
    results = doctest.testmod(actors.kernel.actor, raise_on_error=False)
    assert results.attempted > 0
    assert results.failed == 0
