"""What is remembered of actors and processes that are gone is bounded."""

import asyncio
import random

import pytest

from actors.kernel import links, registry
from actors.kernel.supervision import DownReason
from actors.kernel.virtual_time import run
from tests.actors.kernel.cast import Note, Player
from tests.actors.kernel.worlds import InstantWorld
from tests.support.stopping import stop_actor
from transport.errors import Unreachable


def test_only_the_last_ends_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "MAX_REMEMBERED_ENDS", 2)

    async def scenario(rng: random.Random) -> list[DownReason]:
        async with InstantWorld(rng).open("here") as here:
            watching = Player()
            watcher = here.spawn(watching, name="watcher")
            for name in ("first", "second", "third"):
                here.spawn(Player(), name=name)
                await stop_actor(here, name)
            for name in ("first", "second", "third"):
                here.watch(watcher, here.local_ref(name))
            return [down.reason for down in await watching.wait_downs(3)]

    reasons = run(scenario, seed=0)
    assert reasons == [DownReason.ERROR, DownReason.SHUTDOWN, DownReason.SHUTDOWN]


def test_only_the_last_losses_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(links, "MAX_REMEMBERED_LOSSES", 2)

    async def scenario(rng: random.Random) -> list[str]:
        world, said = InstantWorld(rng), list[str]()
        async with world.open("near") as near:
            refs = []
            for name in ("first", "second", "third"):
                async with world.open(name) as far:
                    refs.append(far.spawn(Player(), name="player"))
                    await near.ask(refs[-1], Note(1), timeout_s=5)
            await asyncio.sleep(1)
            for ref in refs:
                with pytest.raises(Unreachable) as caught:
                    await near.ask(ref, Note(1), timeout_s=60)
                said.append("dialled" if "nobody" in str(caught.value) else "known")
        return said

    assert run(scenario, seed=0) == ["dialled", "known", "known"]
