"""A question to an actor that may be gone: its answer, or none in time.

For whoever goes on without an answer, whatever the reason; who must tell the reason asks itself.
"""

from typing import Protocol, TypeVar

from actors.kernel.errors import ActorError
from actors.kernel.ref import Ref
from transport.codec import Message
from transport.errors import TransportError

_M = TypeVar("_M", bound=Message)


class Asker(Protocol):
    """Who can ask: an actor's context, or a whole system."""

    async def ask(self, ref: Ref, message: Message, *, timeout_s: float) -> Message:
        """Send a message and wait for its reply; raises `ActorError` or `TransportError`."""
        ...


async def answer_of(
    asker: Asker, ref: Ref, question: Message, kind: type[_M], *, timeout_s: float
) -> _M | None:
    """The answer, if one of that kind comes in time; else None."""
    try:
        answer = await asker.ask(ref, question, timeout_s=timeout_s)
    except (ActorError, TransportError):
        return None
    return answer if isinstance(answer, kind) else None
