"""The messages and actors that the kernel's tests play with."""

import asyncio
from collections.abc import Sequence

from actors.kernel.actor import Actor
from actors.kernel.errors import ActorError
from actors.kernel.ref import Ref
from actors.kernel.supervision import Down
from transport.codec import Codec, Message
from transport.errors import TransportError
from transport.frame import Buffer


class Note(Message, frozen=True, tag="note"):
    """Remember a number; answered by how many there are."""

    number: int


class Count(Message, frozen=True, tag="count"):
    """A number."""

    number: int


class Fail(Message, frozen=True, tag="fail"):
    """Fail with a text."""

    text: str


class Wait(Message, frozen=True, tag="wait"):
    """Do not return before the gate is open."""


class Stop(Message, frozen=True, tag="stop"):
    """End, the work done."""


class Relay(Message, frozen=True, tag="relay"):
    """Ask another actor something and answer with what came of it."""

    to: Ref
    timeout_s: float


class PassOn(Message, frozen=True, tag="pass_on"):
    """Tell another actor a number."""

    to: Ref
    number: int


class Heard(Message, frozen=True, tag="heard"):
    """What came of a relayed ask: an error's name, or nothing."""

    error: str


class Foreign(Message, frozen=True, tag="foreign"):
    """A message that no codec here knows."""


CODEC = Codec([Note, Count, Fail, Wait, Stop, Relay, PassOn, Heard])


class Player(Actor):
    """Does what the messages above say, and keeps what it saw."""

    def __init__(self, log: list[str] | None = None) -> None:
        self.notes: list[int] = []
        self.senders: list[Ref | None] = []
        self.buffers: list[bytes] = []
        self.downs: list[Down] = []
        self.log = log if log is not None else []
        self.gate = asyncio.Event()
        self.has_begun_to_wait = asyncio.Event()
        self.noted = asyncio.Condition()

    async def on_start(self) -> None:
        self.log.append(f"start {self.name}")

    async def on_stop(self) -> None:
        self.log.append(f"stop {self.name}")

    async def on_failure(self, error: Exception) -> None:
        self.log.append(f"failure {self.name}: {error}")

    @property
    def name(self) -> str:
        return self.context.self_ref.name

    async def receive(
        self, message: Message, sender: Ref | None, buffers: Sequence[Buffer]
    ) -> Message | None:
        match message:
            case Note():
                return await self._note(message, sender, buffers)
            case Fail():
                raise ValueError(message.text)
            case Wait():
                self.has_begun_to_wait.set()
                await self.gate.wait()
            case Stop():
                self.context.stop()
            case Relay():
                return await self._relay(message)
            case PassOn():
                self.context.tell(message.to, Note(message.number), buffers=buffers)
            case Down():
                self.downs.append(message)
                await self._tell_waiters()
        return None

    async def _note(self, message: Note, sender: Ref | None, buffers: Sequence[Buffer]) -> Message:
        self.notes.append(message.number)
        self.senders.append(sender)
        self.buffers.extend(bytes(buffer) for buffer in buffers)
        await self._tell_waiters()
        return Count(len(self.notes))

    async def _tell_waiters(self) -> None:
        async with self.noted:
            self.noted.notify_all()

    async def _relay(self, message: Relay) -> Message:
        try:
            await self.context.ask(message.to, Note(0), timeout_s=message.timeout_s)
        except (ActorError, TransportError) as error:
            return Heard(type(error).__name__)
        return Heard("")

    async def wait_notes(self, number: int) -> list[int]:
        """Wait until so many numbers were noted."""
        async with asyncio.timeout(10), self.noted:
            await self.noted.wait_for(lambda: len(self.notes) >= number)
        return self.notes

    async def wait_downs(self, number: int = 1) -> list[Down]:
        """Wait until so many actors were reported gone."""
        async with asyncio.timeout(10), self.noted:
            await self.noted.wait_for(lambda: len(self.downs) >= number)
        return self.downs
