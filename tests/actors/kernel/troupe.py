"""A troupe of players under supervision, for the tests of the tree."""

from collections.abc import Callable

from actors.kernel.supervision import Supervision
from actors.kernel.system import ActorSystem
from tests.actors.kernel.cast import Player
from transport.codec import Message

SOON = 1.0
"""Longer than the first backoff."""


class Troupe:
    """Makes players that write into one log, and remembers the newest of each name."""

    def __init__(self, system: ActorSystem) -> None:
        self.log: list[str] = []
        self.newest: dict[str, Player] = {}
        self._system = system

    def maker(self, name: str) -> Callable[[], Player]:
        def make() -> Player:
            self.newest[name] = Player(self.log)
            return self.newest[name]

        return make

    def spawn(self, name: str, supervision: Supervision | None = None) -> None:
        self._system.spawn(self.maker(name), name=name, supervision=supervision)

    def tell(self, name: str, message: Message) -> None:
        self._system.tell(self._system.local_ref(name), message)

    def num_restarts(self) -> dict[str, int]:
        return {actor.name: actor.num_restarts for actor in self._system.statistics().actors}


class Parent(Player):
    """Spawns a child named by each `Fail` it is told, which fails when it gets a note."""

    def __init__(self, log: list[str], supervision: Supervision | None = None) -> None:
        super().__init__(log)
        self.supervision = supervision

    async def on_start(self) -> None:
        await super().on_start()
        for name in ("elder", "younger"):
            self.context.spawn(self._make_child, name=name, supervision=self.supervision)

    def _make_child(self) -> Player:
        return Player(self.log)
