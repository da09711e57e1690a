"""The seam of security: a guard makes every socket of an endpoint safe, or leaves it as it is.

`PlainGuard` is the guard of loopback: sockets as they are, addresses without a key. The other one
is `transport.zmq_curve.CurveGuard`.
"""

from dataclasses import dataclass
from typing import Protocol

import zmq

PROTOCOL_EVENT = int(zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL)
WRONG_SECURITY = "one end has CURVE encryption on and the other has not"


@dataclass(frozen=True, slots=True)
class Trouble:
    """What keeps two processes from speaking; where it is not final, another try may help."""

    reason: str
    is_final: bool = True


class Guard(Protocol):
    """What an endpoint asks of its security."""

    def address_of(self, address: str) -> str:
        """The address we give to others, for the one we listen at."""
        ...

    def guard_door(self, router: "zmq.Socket[bytes]") -> None:
        """Make a listening socket safe before it is bound."""
        ...

    def guard_link(self, socket: "zmq.Socket[bytes]", address: str) -> str:
        """Make a dialling socket safe; what ZeroMQ is to dial."""
        ...

    def why_not_dial(self, address: str) -> str | None:
        """Why an address cannot be dialled at all, or None."""
        ...

    def key_of(self, part: zmq.Frame) -> bytes | None:
        """The key of whoever sent a part that came in at the door."""
        ...

    def why_refuse(self, address: str, key: bytes | None) -> str | None:
        """Why whoever came with this key cannot be who is at this address, or None."""
        ...

    def on_proven(self, key: bytes | None) -> None:
        """The owner of a key proved that it knows the token."""
        ...

    def on_misconduct(self, key: bytes | None) -> None:
        """A stranger with this key failed to prove itself, or spoke nonsense."""
        ...

    def explain(self, event: int, value: int, num_failures: int) -> Trouble | None:
        """What an event of a failed greeting means, see `zmq_socket_monitor(3)`; None if little."""
        ...

    def close(self) -> None:
        """Answer no more."""
        ...


class PlainGuard:
    """No keys: whoever knows the token may speak, and what is said can be read on the way."""

    def address_of(self, address: str) -> str:
        """As it is."""
        return address

    def guard_door(self, router: "zmq.Socket[bytes]") -> None:
        """Leave it as it is."""

    def guard_link(self, socket: "zmq.Socket[bytes]", address: str) -> str:
        """Leave it as it is."""
        return address

    def why_not_dial(self, address: str) -> str | None:
        """An address with a key is that of an encrypted process."""
        return None if "@" not in address else f"it carries a key, and {WRONG_SECURITY}"

    def key_of(self, part: zmq.Frame) -> bytes | None:
        """Nobody has a key."""
        return None

    def why_refuse(self, address: str, key: bytes | None) -> str | None:
        """As for dialling, since we dial back."""
        return self.why_not_dial(address)

    def on_proven(self, key: bytes | None) -> None:
        """There is nothing to remember."""

    def on_misconduct(self, key: bytes | None) -> None:
        """There is nothing to remember."""

    def explain(self, event: int, value: int, num_failures: int) -> Trouble | None:
        """Only that the other end is encrypted is certain."""
        if event == PROTOCOL_EVENT and value == zmq.PROTOCOL_ERROR_ZMTP_MECHANISM_MISMATCH:
            return Trouble(WRONG_SECURITY)
        return None

    def close(self) -> None:
        """There is nothing to close."""
