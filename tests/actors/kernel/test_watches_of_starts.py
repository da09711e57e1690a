"""A watch is of one start of an actor: what its next starts do is nobody's `Down`."""

import asyncio

import pytest

from actors.kernel.errors import RemoteFault
from actors.kernel.supervision import DownReason, Supervision
from tests.actors.kernel.cast import Fail, Player
from tests.actors.kernel.worlds import InstantWorld, World, everywhere, simulated
from tests.support.stopping import stop_actor


@everywhere
async def test_earlier_start_is_reported_as_an_error_once_forgotten(world: World) -> None:
    async with world.pair() as (near, far):
        watching = Player()
        watcher = near.spawn(watching, name="watcher")
        first = far.spawn(Player(), name="player")
        await stop_actor(far, "player")
        far.spawn(Player(), name="player")
        await stop_actor(far, "player")
        near.watch(watcher, first)
        (down,) = await watching.wait_downs()
        assert down.reason == DownReason.ERROR


@everywhere
async def test_restart_of_a_watched_name_is_reported(world: World) -> None:
    async with world.pair() as (near, far):
        watching = Player()
        watcher = near.spawn(watching, name="watcher")
        far.spawn(Player, name="player", supervision=Supervision(backoff_s=0.01))
        name = far.local_ref("player")
        near.watch(watcher, name)
        near.tell(name, Fail("once"))
        (down,) = await watching.wait_downs()
        assert (down.ref, down.reason) == (name, DownReason.ERROR)


@everywhere
async def test_name_watched_between_two_starts_is_reported_as_the_first_ended(
    world: World,
) -> None:
    async with world.pair() as (near, far):
        watching = Player()
        watcher = near.spawn(watching, name="watcher")
        slow = Supervision(backoff_s=1000, max_backoff_s=1000)
        player = far.spawn(Player, name="player", supervision=slow)
        with pytest.raises(RemoteFault):
            await near.ask(player, Fail("oh"), timeout_s=5)
        name = far.local_ref("player")
        near.watch(watcher, name)
        near.watch(watcher, player)
        downs = await watching.wait_downs(2)
        failed = (DownReason.ERROR, "ValueError: oh")
        assert [(down.ref, down.reason, down.text) for down in downs] == [
            (name, *failed),
            (player, *failed),
        ]


@simulated
async def test_name_watched_anew_after_its_restart_is_reported_anew(world: InstantWorld) -> None:
    async with world.pair() as (near, far):
        watching = Player()
        watcher = near.spawn(watching, name="watcher")
        far.spawn(Player, name="player", supervision=Supervision())
        name = far.local_ref("player")
        for text in ("once", "twice"):
            near.watch(watcher, name)
            near.tell(name, Fail(text))
            await asyncio.sleep(1)
        assert [down.text for down in watching.downs] == ["ValueError: once", "ValueError: twice"]


@simulated
async def test_actor_of_an_earlier_life_of_this_process_is_not_taken_for_one_of_now(
    world: InstantWorld,
) -> None:
    async with world.open("here") as before:
        old = before.spawn(Player(), name="player")
    async with world.open("here") as here:
        watching = Player()
        now = here.spawn(Player(), name="player")
        assert now.generation == old.generation
        await stop_actor(here, "player")
        watcher = here.spawn(watching, name="watcher")
        here.watch(watcher, old)
        here.watch(watcher, now)
        first, second = await watching.wait_downs(2)
        assert (first.reason, second.reason) == (DownReason.ERROR, DownReason.SHUTDOWN)
