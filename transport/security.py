"""Keys of processes, addresses that carry them, and the list of keys that a door admits.

Every process has a Curve25519 key pair of its own. Its address says the public one
(`tcp://KEY@HOST:PORT`), so that whoever is given the address can dial nobody else, and a process
that was dialled knows the key that will dial back. Nothing here opens a socket; how libzmq is told
stands in `transport.zmq_guard`. CurveZMQ: https://rfc.zeromq.org/spec/26/.
"""

import base64
import binascii
import enum
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import zmq
from zmq.utils import z85

from transport.errors import CannotListen, DecodeError

KEY_BYTES = 32
KEY_CHARACTERS = 43
"""Of a key as text: base64 for URLs, without padding."""

FORGIVEN_AFTER_S = 60.0
"""A key that was refused may try again after this: its owner may have been given another token."""


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


class Verdict(enum.Enum):
    """What is said to a key that comes."""

    ADMITTED = enum.auto()
    REFUSED = enum.auto()
    FULL = enum.auto()


class AllowList:
    """Which keys a door admits: its members', and for a while a stranger's that may become one.

    A stranger's key is admitted so that its owner can prove that it knows the cluster's token; if
    it fails it is refused from then on, and if it does not try in time its place is given away.
    Members are admitted however many strangers there are. All three lists are bounded: of members
    the one that was not seen for longest is forgotten first, and is a stranger again.

    Args:
        now: the time, seconds.
        trusted: keys that are members for ever.
        max_members: other members remembered.
        max_strangers: keys that may be about to prove themselves.
        patience_s: how long a stranger may take.
    """

    def __init__(
        self,
        now: Callable[[], float],
        *,
        trusted: Iterable[bytes] = (),
        max_members: int = 4096,
        max_strangers: int = 256,
        patience_s: float = 5.0,
    ) -> None:
        self._now = now
        self._trusted = frozenset(trusted)
        self._members: OrderedDict[bytes, None] = OrderedDict()
        self._strangers: OrderedDict[bytes, float] = OrderedDict()
        self._refused: OrderedDict[bytes, float] = OrderedDict()
        self._max_members, self._max_strangers = max_members, max_strangers
        self._patience_s = patience_s
        self.num_refused = 0

    def judge(self, key: bytes) -> Verdict:
        """What is to be said to a key that comes; a new stranger takes a place."""
        self._forget_the_late()
        if self.is_member(key):
            if key in self._members:
                self._members.move_to_end(key)
            return Verdict.ADMITTED
        if key in self._refused:
            self.num_refused += 1
            return Verdict.REFUSED
        if key not in self._strangers and len(self._strangers) >= self._max_strangers:
            return Verdict.FULL
        self._strangers.setdefault(key, self._now() + self._patience_s)
        return Verdict.ADMITTED

    def is_member(self, key: bytes) -> bool:
        """Whether a key was admitted for good."""
        return key in self._trusted or key in self._members

    def admit(self, key: bytes) -> None:
        """Make a key a member: it proved itself, or we were given its address."""
        self._strangers.pop(key, None)
        self._refused.pop(key, None)
        if key not in self._trusted:
            self._members[key] = None
            self._members.move_to_end(key)
        if len(self._members) > self._max_members:
            self._members.popitem(last=False)

    def refuse(self, key: bytes) -> None:
        """Admit a stranger's key no more, for it misbehaved; a member's stays as it is."""
        if self.is_member(key):
            return
        self._strangers.pop(key, None)
        self._refused[key] = self._now() + FORGIVEN_AFTER_S
        self._refused.move_to_end(key)
        if len(self._refused) > self._max_members:
            self._refused.popitem(last=False)

    def _forget_the_late(self) -> None:
        for keys in (self._strangers, self._refused):
            while keys and next(iter(keys.values())) <= self._now():
                keys.popitem(last=False)
