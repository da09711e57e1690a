"""Real systems over a network that loses, doubles, delays and is cut: what is promised holds."""

import asyncio
import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.kernel.errors import ActorError
from actors.kernel.supervision import DownReason
from actors.kernel.system import ActorSystem
from actors.kernel.virtual_time import run
from tests.actors.kernel.cast import Count, Note, Player, Wait
from tests.actors.kernel.chaos import PROCESSES, Chaos, play_on
from tests.actors.kernel.worlds import LARGE, MemoryWorld, over_memory
from tests.support.stopping import stop_actor
from transport.endpoint import Lane
from transport.errors import EndpointClosed, TransportError, Unreachable
from transport.memory_endpoint import MemoryNetwork
from transport.settings import EndpointSettings

MAX_LOSS_SEEN_S = 5.0
"""By then a process that fell silent is missed by those that were connected to it."""

seeds = st.integers(0, 2**32)


class Storm(MemoryWorld):
    """A network on which processes are killed, and cut off from each other and found again."""

    def __init__(self, rng: random.Random) -> None:
        super().__init__(rng, loss=0.2, duplication=0.2)
        self._cuts: list[tuple[str, str]] = []

    def lose(self, name: str) -> None:
        self.network.kill(name)

    def meddle(self) -> None:
        if self._cuts and self.rng.random() < 0.5:
            self.network.heal(*self._cuts.pop(self.rng.randrange(len(self._cuts))))
            return
        one, other = self.rng.sample(("near", *PROCESSES), 2)
        self._cuts.append((one, other))
        self.network.partition(one, other)


async def storm(rng: random.Random) -> Chaos:
    return await play_on(Storm(rng))


@settings(max_examples=25, deadline=None)
@given(seeds)
def test_in_a_storm_every_ask_ends_once_and_every_watch_leads_to_one_down(seed: int) -> None:
    played = run(storm, seed=seed)
    assert played.num_outcomes == played.num_asks
    assert Counter(down.ref for down in played.watcher.downs) == played.watched


@settings(max_examples=10, deadline=None)
@given(seeds)
def test_in_a_storm_one_seed_gives_one_trace(seed: int) -> None:
    assert run(storm, seed=seed).trace == run(storm, seed=seed).trace


def test_in_a_storm_different_seeds_give_different_traces() -> None:
    traces = [str(run(storm, seed=seed).trace) for seed in range(5)]
    assert len(set(traces)) == 5


def test_a_storm_is_more_than_deadlines_and_losses() -> None:
    """Else the tests above would say little."""
    said = " ".join(what for seed in range(5) for _, what in run(storm, seed=seed).trace)
    for outcome in ("Count(", "Ack(", "RemoteFault", "ActorStopped", "Unreachable", "AskTimeout"):
        assert outcome in said
    for reason in DownReason.ERROR, DownReason.SHUTDOWN, DownReason.NO_CONNECTION:
        assert f"<DownReason.{reason.name}" in said


@over_memory(loss=0.3, duplication=0.3)
async def test_what_is_lost_or_doubled_on_the_way_is_run_once(world: MemoryWorld) -> None:
    async with world.pair(LARGE) as (near, far):
        actor = Player()
        player = far.spawn(actor, name="player")
        async with asyncio.TaskGroup() as tasks:
            asked = [
                tasks.create_task(near.ask(player, Note(number), timeout_s=60))
                for number in range(200)
            ]
        assert actor.notes == list(range(200))
        assert [reply.result() for reply in asked] == [Count(n + 1) for n in range(200)]
        for number in range(200):
            near.tell(player, Note(number))
        assert (await actor.wait_notes(400))[200:] == list(range(200))


async def _watching_each_other(near: ActorSystem, far: ActorSystem) -> tuple[Player, Player]:
    players = Player(), Player()
    refs = near.spawn(players[0], name="player"), far.spawn(players[1], name="player")
    near.watch(refs[0], refs[1])
    far.watch(refs[1], refs[0])
    await near.ask(refs[1], Note(1), timeout_s=60)
    await far.ask(refs[0], Note(1), timeout_s=60)
    return players


@over_memory()
async def test_both_sides_of_a_cut_are_told_and_no_ask_waits_for_its_deadline(
    world: MemoryWorld,
) -> None:
    async with world.pair() as (near, far):
        players = await _watching_each_other(near, far)
        asked = asyncio.ensure_future(near.ask(far.local_ref("player"), Wait(), timeout_s=1000))
        await players[1].has_begun_to_wait.wait()
        players[1].gate.set()
        world.network.partition("near", "far")
        with pytest.raises(Unreachable, match="may have run"):
            await asked
        for player in players:
            (down,) = await player.wait_downs()
            assert down.reason == DownReason.NO_CONNECTION
        assert asyncio.get_running_loop().time() < MAX_LOSS_SEEN_S


@over_memory()
async def test_process_is_reached_and_watched_again_once_a_cut_is_healed(
    world: MemoryWorld,
) -> None:
    async with world.pair() as (near, far):
        here, there = await _watching_each_other(near, far)
        world.network.partition("near", "far")
        await here.wait_downs()
        await there.wait_downs()
        name = near.ref("memory://far", "player")
        with pytest.raises((ActorError, TransportError)):
            await near.ask(name, Note(2), timeout_s=1)
        world.network.heal("near", "far")
        assert await near.ask(name, Note(2), timeout_s=60) == Count(2)
        near.watch(near.local_ref("player"), name)
        await near.ask(name, Note(3), timeout_s=60)
        await stop_actor(far, "player")
        assert (await here.wait_downs(2))[1].reason == DownReason.SHUTDOWN


@over_memory()
async def test_cut_shorter_than_the_peers_patience_only_delays(world: MemoryWorld) -> None:
    async with world.pair() as (near, far):
        players = await _watching_each_other(near, far)
        world.network.partition("near", "far")
        asked = asyncio.ensure_future(near.ask(far.local_ref("player"), Note(2), timeout_s=60))
        await asyncio.sleep(world.network.settings.peer_timeout_s / 2)
        assert not asked.done()
        world.network.heal("near", "far")
        assert await asked == Count(2)
        await asyncio.sleep(MAX_LOSS_SEEN_S)
        assert [player.downs for player in players] == [[], []]


async def _lead_a_life(world: MemoryWorld, name: str, actor: Player) -> None:
    async with world.open(name, LARGE) as system:
        system.spawn(actor, name="player")
        await asyncio.Event().wait()


@over_memory()
async def test_killed_process_ends_and_is_missed_by_all_who_asked_or_watched(
    world: MemoryWorld,
) -> None:
    async with world.open("near") as near:
        watching, actor = Player(), Player()
        life = asyncio.ensure_future(_lead_a_life(world, "far", actor))
        name = near.ref("memory://far", "player")
        near.watch(near.spawn(watching, name="watcher"), name)
        asked = asyncio.ensure_future(near.ask(name, Wait(), timeout_s=1000))
        await actor.has_begun_to_wait.wait()
        world.network.kill("far")
        with pytest.raises(Unreachable):
            await asked
        (down,) = await watching.wait_downs()
        assert down.reason == DownReason.NO_CONNECTION
        with pytest.raises(EndpointClosed):
            await life


def test_asks_that_wait_for_credit_end_with_the_process() -> None:
    async def scenario(rng: random.Random) -> None:
        world = MemoryWorld(rng)
        world.network = MemoryNetwork(rng, settings=EndpointSettings(window_frames=4))
        async with world.open("near") as near:
            actor = Player()
            life = asyncio.ensure_future(_lead_a_life(world, "far", actor))
            name = near.ref("memory://far", "player")
            near.tell(name, Wait())
            await actor.has_begun_to_wait.wait()
            asked = [
                asyncio.ensure_future(near.ask(name, Note(n), timeout_s=1000, lane=Lane.DATA))
                for n in range(20)
            ]
            await asyncio.sleep(1)
            assert not any(ask.done() for ask in asked)
            world.network.kill("far")
            outcomes = await asyncio.gather(*asked, life, return_exceptions=True)
            assert {type(outcome) for outcome in outcomes[:-1]} == {Unreachable}
            assert isinstance(outcomes[-1], EndpointClosed)
            assert near.statistics().num_asks_pending == 0

    run(scenario, seed=0)
