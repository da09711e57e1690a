"""Actors stop in order, within their grace."""

import asyncio
from collections.abc import Sequence

import pytest

from actors.kernel.ref import Ref
from actors.kernel.supervision import (
    TEMPORARY,
    Down,
    DownReason,
    Restart,
    Supervision,
)
from tests.actors.kernel.cast import Fail, Note, Player, Stop, Wait
from tests.actors.kernel.troupe import Parent, Troupe
from tests.actors.kernel.worlds import InstantWorld, simulated
from tests.support.stopping import stop_actor
from transport.codec import Message
from transport.frame import Buffer


@simulated
async def test_leaving_stops_actors_in_reverse_order(world: InstantWorld) -> None:
    async with world.open("here") as here:
        troupe = Troupe(here)
        for name in ("first", "second", "third"):
            troupe.spawn(name)
    assert troupe.log[-3:] == ["stop third", "stop second", "stop first"]


@simulated
async def test_stopping_lets_the_message_being_handled_finish(world: InstantWorld) -> None:
    async with world.open("here") as here:
        actor = Player()
        player = here.spawn(actor, name="player")
        here.tell(player, Wait())
        here.tell(player, Note(1))
        await actor.has_begun_to_wait.wait()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(here.stop())
            await asyncio.sleep(1)
            assert here.statistics().actors[0].num_waiting == 1
            actor.gate.set()
        assert actor.log[-1] == "stop player"
        assert actor.notes == []


@simulated
async def test_actor_that_does_not_stop_in_its_grace_is_killed_with_its_children(
    world: InstantWorld,
) -> None:
    async with world.open("here") as here:
        log: list[str] = []
        hasty = Supervision(restart=Restart.TEMPORARY, stop_grace_s=2)
        parent = Parent(log, Supervision(stop_grace_s=100))
        ref = here.spawn(parent, name="parent", supervision=hasty)
        await asyncio.sleep(0.1)
        here.tell(ref, Wait())
        await parent.has_begun_to_wait.wait()
        before = asyncio.get_running_loop().time()
        await stop_actor(here, "parent")
        await asyncio.sleep(0)
        assert asyncio.get_running_loop().time() == pytest.approx(before + 2)
        assert here.statistics().actors == ()
        assert not [entry for entry in log if entry.startswith("stop")]


class Stubborn(Player):
    """Goes on although it is cancelled."""

    async def receive(
        self, message: Message, sender: Ref | None, buffers: Sequence[Buffer]
    ) -> Message | None:
        try:
            await asyncio.sleep(1000)
        except asyncio.CancelledError:
            await asyncio.sleep(500)
        return None


@simulated
async def test_actor_that_ignores_its_killing_does_not_hold_the_stop_up(
    world: InstantWorld,
) -> None:
    async with world.open("here") as here:
        hasty = Supervision(restart=Restart.TEMPORARY, stop_grace_s=2)
        here.tell(here.spawn(Stubborn(), name="stubborn", supervision=hasty), Note(1))
        await asyncio.sleep(1)
        await stop_actor(here, "stubborn")
        assert asyncio.get_running_loop().time() < 10


class BadStopper(Player):
    """Fails in its hooks as well."""

    async def on_failure(self, error: Exception) -> None:
        await super().on_failure(error)
        raise RuntimeError("bad at failing")

    async def on_stop(self) -> None:
        await super().on_stop()
        raise RuntimeError("bad at stopping")


@simulated
async def test_failure_in_a_hook_is_a_failure_and_the_first_one_counts(
    world: InstantWorld,
) -> None:
    async with world.open("here") as here:
        watching = Player()
        watcher = here.spawn(watching, name="watcher")
        failing = BadStopper()
        refs = [
            here.spawn(failing, name="failing", supervision=TEMPORARY),
            here.spawn(BadStopper(), name="stopping", supervision=TEMPORARY),
        ]
        for ref in refs:
            here.watch(watcher, ref)
        here.tell(refs[0], Fail("oh"))
        here.tell(refs[1], Stop())
        first, second = await watching.wait_downs(2)
        assert first == Down(refs[0], DownReason.ERROR, "ValueError: oh")
        assert second == Down(refs[1], DownReason.ERROR, "RuntimeError: bad at stopping")
        assert failing.log[-2:] == ["failure failing: oh", "stop failing"]
