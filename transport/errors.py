"""What can go wrong between two processes.

TransportError
├── CannotListen       the address asked for cannot be listened at
├── Unreachable        nobody answered at that address in time
├── PeerGone           a connected peer's process died, closed or fell silent
├── SendQueueFull      the peer takes no more for now, and our bounded queue is full
├── FrameTooLarge      a frame over the agreed bounds, refused before it is sent
├── DecodeError        received bytes that are not a message we know
├── HandshakeRefused   the peer answered, and does not want us (version, model, token)
├── TransferFailed     a bulk transfer was refused, damaged or late
└── EndpointClosed     our own endpoint was closed
"""


class TransportError(Exception):
    """Base of every error this package raises."""


class CannotListen(TransportError):
    """The address asked for cannot be listened at; the text says why."""


class Unreachable(TransportError):
    """Nobody answered at an address within the time given."""


class PeerGone(TransportError):
    """A connected peer's process died, closed its endpoint or fell silent."""


class SendQueueFull(TransportError):
    """The peer grants no more credit and the bounded queue before it is full."""


class FrameTooLarge(TransportError):
    """A frame is larger than the bounds both ends agreed on."""


class DecodeError(TransportError):
    """Received bytes are not a well-formed message of a known type."""


class HandshakeRefused(TransportError):
    """A peer answered and refused us, or we refused it; the text says why."""


class TransferFailed(TransportError):
    """A bulk transfer was refused by the receiver, arrived damaged or missed its deadline."""


class EndpointClosed(TransportError):
    """Our own endpoint was closed; nothing more is sent or received."""
