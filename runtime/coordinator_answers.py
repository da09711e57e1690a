"""What the coordinator answers an operator, or why nobody can decide now."""

from typing import TypeVar

from actors.kernel.errors import ActorError
from actors.kernel.ref import Ref
from actors.kernel.system import ActorSystem
from runtime.gateway.operator import Unavailable
from transport.codec import Message
from transport.errors import TransportError

_M = TypeVar("_M", bound=Message)


async def ask_coordinator(
    system: ActorSystem, coordinator: Ref, message: Message, kind: type[_M], *, timeout_s: float
) -> _M:
    """Its answer of that kind.

    Raises:
        Unavailable: it gave none in time, or another.
    """
    try:
        answer = await system.ask(coordinator, message, timeout_s=timeout_s)
    except (ActorError, TransportError) as error:
        raise Unavailable(f"the coordinator does not answer: {error}") from None
    if not isinstance(answer, kind):
        raise Unavailable(f"the coordinator answered with {type(answer).__name__}")
    return answer
