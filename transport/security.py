"""Keys of processes, and the addresses that carry them.

Every process has a Curve25519 key pair of its own. Its address says the public one
(`tcp://KEY@HOST:PORT`), so that whoever is given the address can dial nobody else, and a process
that was dialled knows the key that will dial back. Nothing here opens a socket; how libzmq is told
stands in `transport.zmq_curve`. CurveZMQ: https://rfc.zeromq.org/spec/26/.
"""

import base64
import binascii
from dataclasses import dataclass, field

import zmq
from zmq.utils import z85

from transport.errors import CannotListen, DecodeError

KEY_BYTES = 32
KEY_CHARACTERS = 43
"""Of a key as text: base64 for URLs, without padding."""


@dataclass(frozen=True, slots=True)
class KeyPair:
    """One process's Curve25519 keys, `KEY_BYTES` each; the secret one is never shown."""

    public: bytes
    secret: bytes = field(repr=False)

    @classmethod
    def fresh(cls) -> "KeyPair":
        """Keys that nobody has had before.

        Raises:
            CannotListen: libzmq was built without CURVE.
        """
        if not zmq.has("curve"):
            raise CannotListen(
                "this libzmq was built without CURVE; expected one with it, such as that of the "
                "pyzmq wheels on PyPI"
            )
        public, secret = zmq.curve_keypair()
        return cls(z85.decode(public), z85.decode(secret))

    @classmethod
    def of_secret(cls, secret: bytes) -> "KeyPair":
        """The pair that a secret key belongs to.

        Raises:
            ValueError: it has not `KEY_BYTES` bytes.
        """
        if len(secret) != KEY_BYTES:
            raise ValueError(f"secret key: expected {KEY_BYTES} bytes, got {len(secret)}")
        return cls(z85.decode(zmq.curve_public(z85.encode(secret))), secret)


def key_text(key: bytes) -> str:
    """A key as addresses and tokens carry it: `KEY_CHARACTERS` letters, digits, `-` and `_`."""
    return base64.urlsafe_b64encode(key).rstrip(b"=").decode()


def read_key(text: str) -> bytes:
    """The key that some text says.

    Raises:
        DecodeError: it says none.
    """
    try:
        key = base64.b64decode(text.encode("ascii") + b"=", altchars=b"-_", validate=True)
    except (binascii.Error, UnicodeEncodeError):
        key = b""
    if len(key) != KEY_BYTES or key_text(key) != text:
        raise DecodeError(f"key: expected {KEY_CHARACTERS} characters of base64, got {text[:64]!r}")
    return key


def with_key(address: str, key: bytes) -> str:
    """An address that carries a key.

    Example:
        >>> with_key("tcp://10.0.0.5:7000", bytes(32))
        'tcp://AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA@10.0.0.5:7000'
    """
    scheme, _, place = address.partition("://")
    return f"{scheme}://{key_text(key)}@{place}"


def split_key(address: str) -> tuple[str, bytes | None]:
    """The address that ZeroMQ dials, and the key it carries, if any.

    Raises:
        DecodeError: what stands where a key should is none.
    """
    scheme, _, place = address.partition("://")
    text, at, bare = place.rpartition("@")
    return (f"{scheme}://{bare}", read_key(text)) if at else (address, None)
