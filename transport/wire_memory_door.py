"""How processes of one memory network find each other: calls, answers and refusals.

The dialler calls until it is answered. Its call holds its hello and the proof that it knows the
cluster's token; the answer is a hello or a sentence. Of two that call each other at once, the call
that arrives first becomes their conversation.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from transport.errors import HandshakeRefused
from transport.handshake import DIALLER, WRONG_TOKEN, Hello, Introduction, read_hello
from transport.wire_memory import Packet
from transport.wire_memory_link import Conversation, Host, Link


class Directory(Protocol):
    """What a network knows of its processes."""

    def door_of(self, name: str) -> "Door | None":
        """The door of the process of that name, while it lives."""
        ...


@dataclass(frozen=True, slots=True)
class Call:
    """What a dialler says: who it is, and the proof that it knows the token."""

    hello: bytes
    proof: bytes


class Door:
    """Whom one process is connected to, and whom it dials."""

    def __init__(self, host: Host, introduction: Introduction, directory: Directory) -> None:
        self.links: dict[str, Link] = {}
        self.dials: dict[str, Link] = {}
        self.is_open = True
        self._host = host
        self._introduction = introduction
        self._directory = directory

    def all_links(self) -> tuple[Link, ...]:
        """All links, also those that are being dialled."""
        return (*self.links.values(), *self.dials.values())

    def forget(self, link: Link) -> None:
        """A link has come to its end."""
        for links in (self.links, self.dials):
            if links.get(link.name) is link:
                del links[link.name]

    # --- calling

    def dial(self, name: str) -> Link:
        """Call a process; raises `HandshakeRefused` where we are connected to as many as we may."""
        if len(self.links) + len(self.dials) >= self._host.settings.max_peers:
            raise HandshakeRefused(f"memory://{name} was not dialled: {self._full()}")
        link = self.dials[name] = Link(self._host, Conversation(), name)
        hello = self._introduction.hello()
        self._call(link, Call(hello, self._introduction.prove(DIALLER, hello, b"")))
        return link

    def _call(self, link: Link, call: Call) -> None:
        """Call until there is an answer: calls and answers may get lost, or nobody be there yet."""
        if link.opened.done():
            return

        def deliver() -> bool:
            door = self._directory.door_of(link.name)
            if door is not None:
                door.on_call(self, link, call)
            return True

        self._throw(link.name, len(call.hello), deliver)
        loop = asyncio.get_running_loop()
        loop.call_later(self._host.wire.retry_s, self._call, link, call)

    def _throw(self, name: str, num_bytes: int, deliver: Callable[[], bool]) -> None:
        self._host.wire.carry(Packet(self._host.name, name, num_bytes, deliver))

    def on_answer(self, link: Link, hello: Hello, refusal: str | None) -> None:
        """The process that we call answers."""
        if link.opened.done():
            return
        if refusal is not None:
            self._host.on_lost(link, HandshakeRefused(refusal))
        else:
            self.links[link.name] = self.dials.pop(link.name)
            link.open(hello)

    # --- being called

    def on_call(self, caller: "Door", link: Link, call: Call) -> None:
        """Somebody calls: answer, as often as it does."""
        # A late copy of a call must not bring back a conversation that has ended.
        if not self.is_open or link.conversation.is_over:
            return
        hello = read_hello(call.hello)
        refusal = None
        if link.conversation.other(link) is None:
            refusal = self._why_refuse(hello, call)
            if refusal is None:
                self._accept(link.conversation, hello)
        answer = self._introduction.hello()

        def deliver() -> bool:
            caller.on_answer(link, read_hello(answer), refusal)
            return True

        self._throw(hello.name, len(answer), deliver)

    def _why_refuse(self, hello: Hello, call: Call) -> str | None:
        introduction = self._introduction
        reason = introduction.why_refuse(hello)
        if reason is None and not introduction.is_proof(call.proof, DIALLER, call.hello, b""):
            reason = WRONG_TOKEN
        is_full = len(self.links) >= self._host.settings.max_peers
        if reason is None and is_full and hello.name not in self.links:
            reason = self._full()
        return reason and f"{introduction.identity.address} refused us: {reason}"

    def _full(self) -> str:
        return f"{self._host.settings.max_peers} processes are connected here already"

    def _accept(self, conversation: Conversation, hello: Hello) -> None:
        """Open our end; a call of our own to that process is not needed any more."""
        former = self.links.get(hello.name)
        if former is not None:
            former.lose("it connected anew")
        link = self.links[hello.name] = Link(self._host, conversation, hello.name)
        link.open(hello)
        ours = self.dials.pop(hello.name, None)
        if ours is not None:
            ours.give_way(hello.peer)
