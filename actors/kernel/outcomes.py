"""An ask's outcome as a value here and as a message between processes; the two say the same."""

from actors.kernel.envelope import Ack
from actors.kernel.errors import ActorError, ActorStopped, Draining, Rejected, RemoteFault
from actors.kernel.wire import NOTHING, Fault, Refused, Reply, body_of, clip
from transport.codec import Codec, Message
from transport.errors import DecodeError

_KINDS: dict[str, type[ActorError]] = {
    "stopped": ActorStopped,
    "full": Rejected,
    "draining": Draining,
}
_WORDS: dict[type[Exception], str] = {error: word for word, error in _KINDS.items()}


def outcome_to_wire(id_: int, outcome: Message | Exception) -> Message:
    """What is sent to the process that asked."""
    if isinstance(outcome, Message):
        return Reply(id_, body_of(None if isinstance(outcome, Ack) else outcome))
    if isinstance(outcome, RemoteFault):
        texts = (outcome.type_name, outcome.text, outcome.traceback)
        return Fault(id_, *map(clip, texts))
    return Refused(id_, _WORDS[type(outcome)], clip(str(outcome)))


def outcome_from_wire(wire: Reply | Fault | Refused, codec: Codec) -> Message | Exception:
    """What the asker gets; a reply that cannot be read is a fault of who sent it."""
    if isinstance(wire, Fault):
        return RemoteFault(wire.type_name, wire.text, wire.traceback)
    if isinstance(wire, Refused):
        return _KINDS.get(wire.kind, ActorStopped)(wire.text)
    if wire.body == NOTHING:
        return Ack()
    try:
        return codec.decode(wire.body)
    except DecodeError as error:
        return RemoteFault(type(error).__name__, f"its reply cannot be read: {error}", "")
