"""Every watch leads to a `Down`, also where a process is lost or takes nothing for now."""

import asyncio

from actors.kernel.supervision import DownReason
from actors.kernel.watching import RETRY_S
from tests.actors.kernel.cast import Note, Player, Stop, Wait
from tests.actors.kernel.worlds import InstantWorld, simulated
from tests.support.stopping import stop_actor
from transport.errors import SendQueueFull

NOW = 0.05
"""Long enough for a frame on an instant wire."""


@simulated
async def test_actor_in_a_process_that_is_not_there_is_out_of_reach(world: InstantWorld) -> None:
    async with world.open("near") as near:
        watching = Player()
        watcher = near.spawn(watching, name="watcher")
        near.watch(watcher, near.ref("instant://nobody", "player"))
        (down,) = await watching.wait_downs()
        assert down.reason == DownReason.NO_CONNECTION
        assert "nobody" in down.text


@simulated
async def test_loss_of_a_process_is_the_loss_of_all_its_actors(world: InstantWorld) -> None:
    async with world.pair() as (near, far):
        watching = Player()
        watcher = near.spawn(watching, name="watcher")
        players = [far.spawn(Player(), name=name) for name in ("one", "two")]
        for player in players:
            near.watch(watcher, player)
        await asyncio.sleep(NOW)
        world.network.lose("far")
        downs = await watching.wait_downs(2)
        assert [down.ref for down in downs] == players
        assert {down.reason for down in downs} == {DownReason.NO_CONNECTION}


@simulated
async def test_actor_of_a_process_known_to_be_lost_is_out_of_reach(world: InstantWorld) -> None:
    async with world.pair() as (near, far):
        watching = Player()
        watcher = near.spawn(watching, name="watcher")
        player = far.spawn(Player(), name="player")
        await near.ask(player, Note(1), timeout_s=5)
        world.network.lose("far")
        await asyncio.sleep(NOW)
        near.watch(watcher, player)
        (down,) = await watching.wait_downs()
        assert (down.ref, down.reason) == (player, DownReason.NO_CONNECTION)


@simulated
async def test_watchers_in_a_lost_process_are_told_nothing(world: InstantWorld) -> None:
    async with world.pair() as (near, far):
        watcher = near.spawn(Player(), name="watcher")
        player = far.spawn(Player(), name="player")
        near.watch(watcher, player)
        await asyncio.sleep(NOW)
        world.network.lose("near")
        await asyncio.sleep(NOW)
        num_sent = len(world.network.endpoints["far"].sent)
        await stop_actor(far, "player")
        assert len(world.network.endpoints["far"].sent) == num_sent


@simulated
async def test_end_of_an_actor_is_told_as_soon_as_the_queue_has_room(world: InstantWorld) -> None:
    async with world.pair() as (near, far):
        watching = Player()
        watcher = near.spawn(watching, name="watcher")
        player = far.spawn(Player(), name="player")
        near.watch(watcher, player)
        await asyncio.sleep(NOW)
        world.network.endpoints["far"].refusal = SendQueueFull("no room")
        await stop_actor(far, "player")
        await asyncio.sleep(10 * RETRY_S)
        assert watching.downs == []
        world.network.endpoints["far"].refusal = None
        (down,) = await watching.wait_downs()
        assert down.reason == DownReason.SHUTDOWN


@simulated
async def test_end_of_an_actor_is_not_told_to_a_process_that_is_gone(world: InstantWorld) -> None:
    async with world.pair() as (near, far):
        watcher = near.spawn(Player(), name="watcher")
        player = far.spawn(Player(), name="player")
        near.watch(watcher, player)
        await asyncio.sleep(NOW)
        del world.network.endpoints["near"]
        await stop_actor(far, "player")
        assert far.statistics().actors == ()


@simulated
async def test_news_of_an_end_reaches_a_full_mailbox(world: InstantWorld) -> None:
    async with world.open("here") as here:
        watching = Player()
        watcher = here.spawn(watching, name="watcher")
        here.tell(watcher, Wait())
        await watching.has_begun_to_wait.wait()
        players = [here.spawn(Player(), name=f"player {n}") for n in range(20)]
        for player in players:
            here.watch(watcher, player)
            here.tell(player, Stop())
        await asyncio.sleep(NOW)
        watching.gate.set()
        assert [down.ref for down in await watching.wait_downs(20)] == players
