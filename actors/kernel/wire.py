"""What kernels say to each other: the closed protocol under every actor's own messages.

`body` is an actor's message: it is packed together with the envelope around it, and comes as the
bytes that it is in there, for the codec of the actors' own messages to read. A sender is named
without its address: that is the peer the frame came from, which nobody can claim to be.
"""

from typing import Annotated, TypeAlias

from msgspec import Meta, Raw

from actors.kernel.ref import MAX_ID, MAX_NAME
from actors.kernel.supervision import DownReason
from transport.codec import Codec, Message, pack

MAX_TEXT = 1 << 14

Id = Annotated[int, Meta(ge=0, le=MAX_ID)]
Name = Annotated[str, Meta(max_length=MAX_NAME)]
Text = Annotated[str, Meta(max_length=MAX_TEXT)]


class Tell(Message, frozen=True, tag="t"):
    """A message that expects no reply; an empty `sender` is nobody."""

    to: Name
    generation: Id
    sender: Name
    sender_generation: Id
    body: Raw


class Ask(Message, frozen=True, tag="a"):
    """A message that expects a `Reply`, `Fault` or `Refused` with its id within `remaining_ms`."""

    to: Name
    generation: Id
    sender: Name
    sender_generation: Id
    body: Raw
    id: Id
    remaining_ms: Id


class Reply(Message, frozen=True, tag="r"):
    """What the actor returned; `NOTHING` if that was nothing."""

    id: Id
    body: Raw


class Fault(Message, frozen=True, tag="f"):
    """The actor failed while it handled the ask."""

    id: Id
    type_name: Text
    text: Text
    traceback: Text


class Refused(Message, frozen=True, tag="x"):
    """The actor did not answer the ask; `kind` names the error that the asker gets."""

    id: Id
    kind: Name
    text: Text


class CancelAsk(Message, frozen=True, tag="c"):
    """Nobody waits for the reply any more."""

    to: Name
    id: Id


class Watch(Message, frozen=True, tag="w"):
    """Say when this actor is gone, once, in a `Gone` with the same id."""

    to: Name
    generation: Id
    id: Id


class Unwatch(Message, frozen=True, tag="u"):
    """No need to say so any more."""

    to: Name
    id: Id


class Gone(Message, frozen=True, tag="g"):
    """The watched actor is gone."""

    id: Id
    reason: DownReason
    text: Text


Outcome: TypeAlias = Reply | Fault | Refused

WIRE = Codec((Tell, Ask, Reply, Fault, Refused, CancelAsk, Watch, Unwatch, Gone))


NOTHING = Raw(pack(None))


def body_of(message: Message | None) -> Raw:
    """A message as it stands in an envelope."""
    return NOTHING if message is None else Raw(pack(message))


def clip(text: str) -> str:
    """A text short enough for the wire, and of characters that it can carry."""
    text = text.encode("utf-8", "replace").decode()
    return text if len(text) <= MAX_TEXT else text[: MAX_TEXT - 1] + "…"
