"""A message on its way to one actor, with all that its handling needs beside it.

An envelope never crosses a process; `wire` says what does.
"""

from collections.abc import Callable, Sequence
from typing import TypeAlias

import msgspec

from actors.kernel.ref import Ref
from transport.codec import Message
from transport.endpoint import Lane, Peer
from transport.frame import Buffer

Key: TypeAlias = tuple[Peer | None, int]
"""An ask or a watch as its other end knows it: whose (None: this process's), and its id there."""


def nothing_to_release() -> None:
    """What a message that took no credit gives back."""


class Envelope(msgspec.Struct, eq=False):
    """One message for one actor.

    `ask` is None for a tell. `deadline` is on this process's clock. `release` gives the transport's
    credit back and is called once, when the message leaves the mailbox for whatever reason.
    """

    message: Message
    sender: Ref | None
    buffers: Sequence[Buffer]
    lane: Lane
    num_bytes: int = 0
    ask: Key | None = None
    deadline: float | None = None
    release: Callable[[], None] = nothing_to_release


def buffers_bytes(buffers: Sequence[Buffer]) -> int:
    """Size of all buffers, in bytes."""
    return sum(memoryview(buffer).nbytes for buffer in buffers) if buffers else 0


class Ack(Message, frozen=True, tag="ack"):
    """The reply to an ask that was handled and has nothing to say."""
