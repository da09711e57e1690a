"""A process is found again after every way of losing it, and not looked for after the end."""

import asyncio

import pytest

from actors.kernel.dead_letters import DeadLetter
from tests.actors.kernel.cast import Count, Note, Player
from tests.actors.kernel.worlds import InstantWorld, simulated
from transport.errors import Unreachable


@simulated
async def test_process_lost_before_it_was_known_as_connected_is_dialled_again(
    world: InstantWorld,
) -> None:
    async with world.open("near") as near:
        name = near.ref("instant://far", "player")
        async with world.open("far"):
            world.network.endpoints["near"].told_after_s = 1
            asked = asyncio.ensure_future(near.ask(name, Note(1), timeout_s=5))
            await asyncio.sleep(0.5)
            world.network.lose("far")
            with pytest.raises(Unreachable, match="is gone"):
                await asked
        async with world.open("far") as again:
            again.spawn(Player(), name="player")
            assert await near.ask(name, Note(1), timeout_s=5) == Count(1)


@simulated
async def test_system_that_was_left_dials_nobody(world: InstantWorld) -> None:
    async with world.open("far") as far:
        actor = Player()
        player = far.spawn(actor, name="player")
        async with world.open("near") as near:
            near.spawn(Player(), name="watcher")
        near.tell(player, Note(1))
        assert near.statistics().dead_letters == {DeadLetter.UNREACHABLE: 1}
        with pytest.raises(Unreachable, match="has stopped"):
            await near.ask(player, Note(1), timeout_s=5)
        await asyncio.sleep(1)
        assert actor.notes == []
