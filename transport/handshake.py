"""How two processes introduce themselves: the same cluster, protocol, version and traits, or not.

The dialler says hello, the acceptor answers with its own hello and a proof that it knows the
cluster's token, and the dialler proves the same. A proof is a keyed hash over both hellos as they
were sent, each with a fresh nonce, so that it cannot be replayed, reflected or moved to another
conversation, and the token itself never travels. Every mismatch is refused with a sentence.

Nothing here sends: both ends call these functions with what they sent and got.
"""

import hashlib
import hmac
import secrets
from collections.abc import Mapping
from typing import Annotated

import msgspec
from msgspec import Meta

from transport.codec import pack, unpack
from transport.endpoint import Peer
from transport.errors import DecodeError
from transport.settings import EndpointSettings

PROTOCOL = 2
MAX_HELLO_BYTES = 1 << 14

Text = Annotated[str, Meta(max_length=256)]
Incarnation = Annotated[int, Meta(ge=1, le=1 << 62)]
NumFrames = Annotated[int, Meta(ge=1, le=1 << 20)]
NumBytes = Annotated[int, Meta(ge=1, le=1 << 40)]


class Hello(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What one process says about itself, and what it grants to the other."""

    protocol: int
    version: Text
    name: Text
    incarnation: Incarnation
    address: Text
    traits: Annotated[dict[Text, Text], Meta(max_length=64)]
    window_frames: NumFrames
    window_bytes: NumBytes
    max_frame_bytes: NumBytes
    nonce: Annotated[bytes, Meta(min_length=16, max_length=64)]

    @property
    def peer(self) -> Peer:
        """Whom we would know it as."""
        return Peer(self.address, self.name, self.incarnation)


class Introduction:
    """What we say about ourselves, and what we ask of others."""

    def __init__(
        self,
        identity: Peer,
        settings: EndpointSettings,
        *,
        token: bytes,
        version: str,
        traits: Mapping[str, str],
    ) -> None:
        self.identity = identity
        self.settings = settings
        self._token = token
        self._version = version
        self._traits = dict(traits)

    def hello(self) -> bytes:
        """A greeting with a fresh nonce."""
        hello = Hello(
            PROTOCOL,
            self._version,
            self.identity.name,
            self.identity.incarnation,
            self.identity.address,
            self._traits,
            self.settings.window_frames,
            self.settings.window_bytes,
            self.settings.max_frame_bytes,
            secrets.token_bytes(16),
        )
        return pack(msgspec.to_builtins(hello, builtin_types=(bytes,)))

    def why_refuse(self, hello: Hello) -> str | None:
        """Why we do not talk to whoever says this, or None."""
        if hello.version != self._version:
            return f"package version is {hello.version!r}, expected {self._version!r}"
        if hello.incarnation == self.identity.incarnation:
            return "that is this very process"
        for key, expected in self._traits.items():
            found = hello.traits.get(key, expected)
            if found != expected:
                return f"{key} is {found!r}, expected {expected!r}"
        return None

    def prove(self, role: bytes, dialler_hello: bytes, acceptor_hello: bytes) -> bytes:
        """The proof of one role that its sender knows the token and both hellos."""
        transcript = b"%s:%d:%s%s" % (role, len(dialler_hello), dialler_hello, acceptor_hello)
        return hmac.digest(self._token, transcript, hashlib.sha256)

    def is_proof(self, proof: bytes, role: bytes, dialler: bytes, acceptor: bytes) -> bool:
        """Whether some bytes are the proof of that role."""
        return hmac.compare_digest(proof, self.prove(role, dialler, acceptor))


DIALLER, ACCEPTOR = b"dialler", b"acceptor"
WRONG_TOKEN = "it does not know this cluster's token"


def read_hello(data: bytes) -> Hello:
    """The greeting that some bytes hold.

    Raises:
        DecodeError: they hold none, or one of another protocol version.
    """
    if len(data) > MAX_HELLO_BYTES:
        raise DecodeError(f"greeting: expected at most {MAX_HELLO_BYTES} bytes, got {len(data)}")
    plain = unpack(data)
    protocol = plain[0] if isinstance(plain, list) and plain else None
    if protocol != PROTOCOL:
        raise DecodeError(f"protocol version is {str(protocol)[:32]}, expected {PROTOCOL}")
    try:
        return msgspec.convert(plain, Hello, builtin_types=(bytes,))
    except msgspec.ValidationError as error:
        raise DecodeError(f"greeting: {error}") from None
