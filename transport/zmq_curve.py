"""CurveZMQ on every connection of an endpoint, and the list of keys behind its door.

Both ends are authenticated: whoever dials knows whose key it must be, and the door asks the
allow-list about the dialler's (ZAP, https://rfc.zeromq.org/spec/27/). A plaintext connection never
passes libzmq's own greeting.

A key says who speaks, the token says that it is of our cluster: the handshake proves the token
within the encrypted connection, and an address that names another key than it came with is refused.
"""

import asyncio
from collections.abc import Collection

import zmq
from zmq.utils import z85

from transport.allow_list import AllowList, Verdict
from transport.errors import DecodeError
from transport.security import KeyPair, key_text, read_key, split_key, with_key
from transport.settings import EndpointSettings
from transport.zmq_guard import PROTOCOL_EVENT, WRONG_SECURITY, Trouble
from transport.zmq_socket import Context, DrivenSocket, Parts

ZAP_ADDRESS = "inproc://zeromq.zap.01"
ZAP_DOMAIN = b"remuda"
ZAP_VERSION = b"1.0"
REFUSED_EVENT = int(zmq.EVENT_HANDSHAKE_FAILED_AUTH)
MAX_FAILURES = 5
"""Encrypted handshakes in a row that the other end cuts off before we ask no more."""

CROWDED = 500
"""Our ZAP status for a door with too many strangers; 300 would leave the connection hanging."""

_ANSWERS = {
    Verdict.ADMITTED: (b"200", b"admitted"),
    Verdict.REFUSED: (b"400", b"this key is not admitted here"),
    Verdict.FULL: (b"%d" % CROWDED, b"too many strangers are at this door"),
}
WRONG_KEY = "it does not own the key that this address carries"
NOT_ADMITTED = "it does not admit our key, which failed to prove there that it knows the token"
HUNG_UP = (
    "it hung up on the encrypted handshake: it is not encrypted, or its key is not the one we were "
    "given (keys may have been rotated)"
)


class CurveGuard:
    """CurveZMQ on every connection, and the allow-list behind it."""

    def __init__(
        self,
        context: Context,
        keys: KeyPair,
        trusted: Collection[bytes],
        settings: EndpointSettings,
    ) -> None:
        self._keys = keys
        self.allowed = AllowList(
            asyncio.get_running_loop().time,
            trusted=trusted,
            max_members=4 * settings.max_peers,
            max_strangers=settings.max_strangers,
            patience_s=settings.handshake_timeout_s,
        )
        zap = context.socket(zmq.ROUTER)
        zap.setsockopt(zmq.LINGER, 0)
        zap.bind(ZAP_ADDRESS)
        self._zap = DrivenSocket(zap, self._on_request)

    def address_of(self, address: str) -> str:
        """With our key."""
        return with_key(address, self._keys.public)

    def guard_door(self, router: "zmq.Socket[bytes]") -> None:
        """Take encrypted connections only, of admitted keys."""
        router.setsockopt(zmq.CURVE_SERVER, 1)
        router.setsockopt(zmq.CURVE_SECRETKEY, z85.encode(self._keys.secret))
        router.setsockopt(zmq.ZAP_DOMAIN, ZAP_DOMAIN)

    def guard_link(self, socket: "zmq.Socket[bytes]", address: str) -> str:
        """Speak to the owner of the address's key only, who may dial us back from now on."""
        plain, key = split_key(address)
        if key is None:
            raise DecodeError(f"{address}: expected an address that carries a key")
        self.allowed.admit(key)
        socket.setsockopt(zmq.CURVE_SERVERKEY, z85.encode(key))
        socket.setsockopt(zmq.CURVE_PUBLICKEY, z85.encode(self._keys.public))
        socket.setsockopt(zmq.CURVE_SECRETKEY, z85.encode(self._keys.secret))
        return plain

    def why_not_dial(self, address: str) -> str | None:
        """An address without a key is that of a process that is not encrypted."""
        try:
            _, key = split_key(address)
        except DecodeError as error:
            return str(error)
        return None if key is not None else f"it carries no key, and {WRONG_SECURITY}"

    def key_of(self, part: zmq.Frame) -> bytes | None:
        """The key that libzmq authenticated this connection with."""
        try:
            return read_key(str(part.get("User-Id")))
        except zmq.ZMQError:
            return None

    def why_refuse(self, address: str, key: bytes | None) -> str | None:
        """The address must be the speaker's own."""
        reason = self.why_not_dial(address)
        if reason is None and split_key(address)[1] != key:
            reason = "its address carries another key than it speaks with"
        return reason

    def on_proven(self, key: bytes | None) -> None:
        """It is a member from now on."""
        if key is not None:
            self.allowed.admit(key)

    def on_misconduct(self, key: bytes | None) -> None:
        """Admit it no more."""
        if key is not None:
            self.allowed.refuse(key)

    def explain(self, event: int, value: int, num_failures: int) -> Trouble | None:
        """In words; libzmq hangs up without a word on whoever encrypts for another key."""
        if event == REFUSED_EVENT and value == CROWDED:
            return Trouble("strangers crowd its door", is_final=False)
        if event == REFUSED_EVENT:
            return Trouble(NOT_ADMITTED)
        if event == PROTOCOL_EVENT and value == zmq.PROTOCOL_ERROR_ZMTP_MECHANISM_MISMATCH:
            return Trouble(WRONG_SECURITY)
        if event == PROTOCOL_EVENT and value == zmq.PROTOCOL_ERROR_ZMTP_CRYPTOGRAPHIC:
            return Trouble(WRONG_KEY)
        return Trouble(HUNG_UP, is_final=num_failures >= MAX_FAILURES)

    def close(self) -> None:
        """Answer no more questions of libzmq."""
        self._zap.close()

    def _on_request(self, parts: Parts) -> None:
        """Answer libzmq's question whether a key is admitted; it comes from this process alone."""
        who, _, _, number, _, _, _, mechanism, *credentials = [part.bytes for part in parts]
        key = credentials[0] if mechanism == b"CURVE" and credentials else b""
        verdict = self.allowed.judge(key) if key else Verdict.REFUSED
        status, text = _ANSWERS[verdict]
        user = key_text(key).encode() if verdict is Verdict.ADMITTED else b""
        self._zap.send([who, b"", ZAP_VERSION, number, status, text, user, b""])
