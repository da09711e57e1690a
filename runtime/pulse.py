"""A process that hangs is ended by its parent: the ear that answers, and the watch that asks.

A process that dies is seen by its exit; one that is frozen, or whose event loop stands still, is
seen by nothing but its silence. Whoever was away itself counts that silence anew.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from actors.attention import Attention
from actors.kernel.actor import Actor
from actors.kernel.errors import ActorError, ActorStopped
from actors.kernel.ref import Ref
from actors.kernel.system import ActorSystem
from actors.messages import AreYouThere
from transport.codec import Message
from transport.errors import TransportError
from transport.frame import Buffer

_log = logging.getLogger(__name__)

NAME = "pulse"
ASK_EVERY_S = 0.5
ANSWER_TIMEOUT_S = 1.0


class PulseActor(Actor):
    """Answers, as long as its process does anything."""

    async def receive(
        self, message: Message, sender: Ref | None, buffers: Sequence[Buffer]
    ) -> Message | None:
        """Whatever was asked: to answer is all there is to say."""
        return None


@dataclass(frozen=True, slots=True)
class Life:
    """One life of a child: its process, and where it listens."""

    pid: int
    address: str


class PulseWatch:
    """Asks children whether they are there, and has those ended that do not say so.

    Args:
        system: asks them.
        living: the children that have said that they are up, by their roles.
        on_hang: called once for a life that answered nobody for `timeout_s`, with role and process.
        timeout_s: how long a child may be silent, in seconds.
    """

    def __init__(
        self,
        system: ActorSystem,
        living: Callable[[], Mapping[str, Life]],
        on_hang: Callable[[str, int], None],
        timeout_s: float,
    ) -> None:
        self._system = system
        self._living = living
        self._on_hang = on_hang
        self._timeout_s = timeout_s
        self._heard: dict[Life, float] = {}
        self._ended: set[Life] = set()
        self._attention = Attention()

    async def run(self) -> None:
        """Watch until cancelled."""
        with self._attention.kept():
            while True:
                await asyncio.sleep(ASK_EVERY_S)
                await self._ask_all(dict(self._living()))

    async def _ask_all(self, living: Mapping[str, Life]) -> None:
        now = asyncio.get_running_loop().time()
        self._heard = {life: self._heard.get(life, now) for life in living.values()}
        self._ended &= self._heard.keys()
        async with asyncio.TaskGroup() as asking:
            for life in living.values():
                asking.create_task(self._ask(life))
        if self._attention.was_away:
            self._heard = dict.fromkeys(self._heard, asyncio.get_running_loop().time())
        for role, life in living.items():
            self._judge(role, life)

    async def _ask(self, life: Life) -> None:
        pulse = self._system.ref(life.address, NAME)
        try:
            await self._system.ask(pulse, AreYouThere(), timeout_s=ANSWER_TIMEOUT_S)
        except ActorStopped:
            _log.debug("a process without a pulse answers all the same pid=%d", life.pid)
        except (ActorError, TransportError) as error:
            _log.debug("no pulse pid=%d error=%s", life.pid, error)
            return
        self._heard[life] = asyncio.get_running_loop().time()

    def _judge(self, role: str, life: Life) -> None:
        silent_s = asyncio.get_running_loop().time() - self._heard[life]
        if silent_s > self._timeout_s and life not in self._ended:
            self._ended.add(life)
            self._on_hang(role, life.pid)
