"""Every watch leads to exactly one `Down`, whatever became of the watched actor."""

import asyncio
from collections.abc import Sequence

import pytest

from actors.kernel.errors import ActorStopped
from actors.kernel.ref import Ref
from actors.kernel.supervision import TEMPORARY, Down, DownReason, Supervision
from tests.actors.kernel.cast import Count, Fail, Note, Player, Stop, Wait
from tests.actors.kernel.worlds import World, arrived, everywhere
from tests.support.stopping import stop_actor
from transport.codec import Message
from transport.frame import Buffer


@everywhere
async def test_actor_that_ends_by_itself_is_reported_normal(world: World) -> None:
    async with world.pair() as (near, far):
        watching = Player()
        watcher = near.spawn(watching, name="watcher")
        player = far.spawn(Player(), name="player")
        near.watch(watcher, player)
        near.tell(player, Stop())
        assert await watching.wait_downs() == [Down(player, DownReason.NORMAL, "")]
        assert near.statistics().num_watches == 0


@everywhere
async def test_actor_that_fails_is_reported_with_its_error(world: World) -> None:
    async with world.pair() as (near, far):
        watching = Player()
        watcher = near.spawn(watching, name="watcher")
        player = far.spawn(Player(), name="player", supervision=TEMPORARY)
        near.watch(watcher, player)
        near.tell(player, Fail("too bad"))
        expected = Down(player, DownReason.ERROR, "ValueError: too bad")
        assert await watching.wait_downs() == [expected]


@everywhere
async def test_actor_that_is_stopped_is_reported_shut_down(world: World) -> None:
    async with world.pair() as (near, far):
        watching = Player()
        watcher = near.spawn(watching, name="watcher")
        player = far.spawn(Player(), name="player")
        near.watch(watcher, player)
        await near.ask(player, Note(1), timeout_s=5)
        await stop_actor(far, "player")
        assert await watching.wait_downs() == [Down(player, DownReason.SHUTDOWN, "")]


@everywhere
async def test_actor_that_will_not_stop_is_reported_killed(world: World) -> None:
    async with world.pair() as (near, far):
        watching, actor = Player(), Player()
        watcher = near.spawn(watching, name="watcher")
        hasty = Supervision(stop_grace_s=0.1)
        player = far.spawn(lambda: actor, name="player", supervision=hasty)
        near.watch(watcher, player)
        near.tell(player, Wait())
        await actor.has_begun_to_wait.wait()
        await stop_actor(far, "player")
        assert await watching.wait_downs() == [Down(player, DownReason.KILLED, "")]
        assert actor.log == ["start player"]


@everywhere
async def test_actor_that_ended_before_is_reported_as_it_ended(world: World) -> None:
    async with world.pair() as (near, far):
        watching = Player()
        watcher = near.spawn(watching, name="watcher")
        player = far.spawn(Player(), name="player")
        await near.ask(player, Stop(), timeout_s=5)
        await arrived(far, near)
        near.watch(watcher, player)
        near.watch(watcher, far.local_ref("player"))
        downs = await watching.wait_downs(2)
        assert [down.reason for down in downs] == [DownReason.NORMAL] * 2


@everywhere
async def test_actor_that_never_was_is_reported_as_an_error(world: World) -> None:
    async with world.pair() as (near, far):
        watching = Player()
        watcher = near.spawn(watching, name="watcher")
        nobody = far.local_ref("nobody")
        near.watch(watcher, nobody)
        (down,) = await watching.wait_downs()
        assert (down.ref, down.reason) == (nobody, DownReason.ERROR)
        assert "'nobody'" in down.text


@everywhere
async def test_watching_twice_is_watching_once(world: World) -> None:
    async with world.pair() as (near, far):
        watching = Player()
        watcher = near.spawn(watching, name="watcher")
        player = far.spawn(Player(), name="player")
        near.watch(watcher, player)
        near.watch(watcher, player)
        assert near.statistics().num_watches == 1
        near.tell(player, Stop())
        await watching.wait_downs()
        await arrived(far, near)
        assert len(watching.downs) == 1


@everywhere
async def test_watch_that_is_taken_back_reports_nothing(world: World) -> None:
    async with world.pair() as (near, far):
        watching = Player()
        watcher = near.spawn(watching, name="watcher")
        kept, dropped = far.spawn(Player(), name="kept"), far.spawn(Player(), name="dropped")
        near.watch(watcher, dropped)
        near.watch(watcher, kept)
        near.unwatch(watcher, dropped)
        near.unwatch(watcher, dropped)
        near.tell(dropped, Stop())
        near.tell(kept, Stop())
        await watching.wait_downs()
        await arrived(far, near)
        assert [down.ref for down in watching.downs] == [kept]


@everywhere
async def test_watcher_that_ends_is_forgotten(world: World) -> None:
    async with world.pair() as (near, far):
        watcher = near.spawn(Player(), name="watcher")
        player = far.spawn(Player(), name="player")
        near.watch(watcher, player)
        await near.ask(player, Note(1), timeout_s=5)
        await stop_actor(near, "watcher")
        assert near.statistics().num_watches == 0
        with pytest.raises(ActorStopped):
            near.watch(watcher, player)


@everywhere
async def test_taking_back_a_watch_of_an_actor_that_is_gone_is_harmless(world: World) -> None:
    async with world.pair() as (near, far):
        watching = Player()
        watcher = near.spawn(watching, name="watcher")
        player = far.spawn(Player(), name="player")
        near.watch(watcher, player)
        await near.ask(player, Note(1), timeout_s=5)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(stop_actor(far, "player"))
            near.unwatch(watcher, player)
        other = far.spawn(Player(), name="other")
        assert await near.ask(other, Note(1), timeout_s=5) == Count(1)


class Watchful(Player):
    """Watches whoever sends it a note, and leaves the last one alone when told to stop."""

    async def receive(
        self, message: Message, sender: Ref | None, buffers: Sequence[Buffer]
    ) -> Message | None:
        if isinstance(message, Note) and sender is not None:
            self.context.watch(sender)
        if isinstance(message, Stop) and sender is not None:
            self.context.unwatch(sender)
            return None
        return await super().receive(message, sender, buffers)


@everywhere
async def test_actor_watches_in_its_own_name(world: World) -> None:
    async with world.pair() as (near, far):
        watchful = Watchful()
        watcher = far.spawn(watchful, name="watcher")
        kept, dropped = near.spawn(Player(), name="kept"), near.spawn(Player(), name="dropped")
        near.tell(watcher, Note(1), sender=kept)
        near.tell(watcher, Note(2), sender=dropped)
        near.tell(watcher, Stop(), sender=dropped)
        near.tell(watcher, Note(3), sender=kept)
        await watchful.wait_notes(3)
        await arrived(far, near)
        await stop_actor(near, "dropped")
        await stop_actor(near, "kept")
        await watchful.wait_downs()
        assert [down.ref for down in watchful.downs] == [kept]
