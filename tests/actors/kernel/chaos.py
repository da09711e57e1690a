"""A play of chance: processes come, fail and vanish, while one that stays watches and asks them."""

import asyncio
import random
from collections import Counter
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Protocol

from actors.kernel.errors import ActorError
from actors.kernel.ref import Ref
from actors.kernel.supervision import Strategy, Supervision
from actors.kernel.system import ActorSystem
from tests.actors.kernel.cast import Fail, Note, Player, Relay, Stop, Wait
from transport.codec import Message
from transport.errors import TransportError

NUM_STEPS = 60
PROCESSES = ("one", "two", "three")
TOUGH = Supervision(strategy=Strategy.REST_FOR_ONE, max_restarts=10**6, stop_grace_s=1.0)
MAX_RANDOM_TIMEOUT_S = 3.0
LONG_ENOUGH_S = 60.0
"""By then every process that was left knows of the others' end."""


class Stage(Protocol):
    """A world in which a process can also vanish without a word."""

    rng: random.Random

    def open(self, name: str) -> AbstractAsyncContextManager[ActorSystem]:
        """A process with its actors."""
        ...

    def lose(self, name: str) -> None:
        """End a process without a word."""
        ...

    def meddle(self) -> None:
        """Do something else to the network, by chance."""
        ...


@dataclass
class Chaos:
    """`near` stays, watches and asks; the others come and go."""

    stage: Stage
    near: ActorSystem
    tasks: asyncio.TaskGroup
    watcher: Player = field(default_factory=Player)
    trace: list[tuple[float, str]] = field(default_factory=list)
    refs: list[Ref] = field(default_factory=list)
    watched: Counter[Ref] = field(default_factory=Counter)
    num_asks: int = 0
    num_outcomes: int = 0

    def note(self, what: str) -> None:
        self.trace.append((asyncio.get_running_loop().time(), what))

    async def play(self) -> None:
        rng = self.stage.rng
        self.near.spawn(self.watcher, name="watcher")
        lives = {name: self.tasks.create_task(self._live(name)) for name in PROCESSES}
        await asyncio.sleep(1)
        for _ in range(NUM_STEPS):
            await asyncio.sleep(rng.random())
            match rng.randrange(11):
                case 0:
                    lives[rng.choice(PROCESSES)].cancel()
                case 1:
                    name = rng.choice(PROCESSES)
                    if lives[name].done():
                        lives[name] = self.tasks.create_task(self._live(name))
                case 2 | 3:
                    self._watch(rng.choice(self.refs))
                case 4:
                    self.stage.meddle()
                case _:
                    self._ask(rng.choice(self.refs), self._any_message())
        for life in lives.values():
            life.cancel()

    async def _live(self, name: str) -> None:
        self.note(f"open {name}")
        async with self.stage.open(name) as system:
            for number in range(2):
                player = system.spawn(Player, name=f"player {number}", supervision=TOUGH)
                self.refs += [player, system.local_ref(f"player {number}")]
            try:
                await asyncio.Event().wait()
            finally:
                if self.stage.rng.random() < 0.5:
                    self.stage.lose(name)

    def _any_message(self) -> Message:
        rng = self.stage.rng
        relay = Relay(rng.choice(self.refs), timeout_s=rng.random())
        return rng.choice([Note(1), Note(2), Fail("oh"), Stop(), Wait(), relay])

    def _ask(self, ref: Ref, message: Message) -> None:
        self.num_asks += 1
        self.tasks.create_task(self._asked(ref, message))

    async def _asked(self, ref: Ref, message: Message) -> None:
        loop, timeout_s = asyncio.get_running_loop(), self.stage.rng.random() * MAX_RANDOM_TIMEOUT_S
        deadline = loop.time() + timeout_s
        try:
            outcome: object = await self.near.ask(ref, message, timeout_s=timeout_s)
        except (ActorError, TransportError) as error:
            outcome = f"{type(error).__name__} {error}"
        assert loop.time() <= deadline + 1e-9
        self.num_outcomes += 1
        self.note(f"{ref} {message}: {outcome}")

    def _watch(self, ref: Ref) -> None:
        num_downs = sum(down.ref == ref for down in self.watcher.downs)
        if self.watched[ref] == num_downs:  # else it is watched already
            self.watched[ref] += 1
        self.near.watch(self.near.local_ref("watcher"), ref)


async def play_on(stage: Stage) -> Chaos:
    """Play to the end, and hand back what happened once all that follows from it has."""
    async with stage.open("near") as near:
        async with asyncio.TaskGroup() as tasks:
            played = Chaos(stage, near, tasks)
            await played.play()
        await asyncio.sleep(LONG_ENOUGH_S)
        statistics = near.statistics()
        played.note(f"{statistics}")
        played.trace.extend((0.0, str(down)) for down in played.watcher.downs)
        assert statistics.num_asks_pending == 0
        assert statistics.num_watches == 0
    return played
