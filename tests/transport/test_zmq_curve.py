"""At an encrypted door every stranger is refused, with a sentence where it can hear one.

Whatever it tries, two members go on talking at the end of each test.
"""

import asyncio
import contextlib
import random
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import zmq
from zmq.utils import z85

from tests.support.endpoints import SOON_S, heads, next_event, next_loss, say, until
from transport.allow_list import Verdict
from transport.endpoint import Lane, Peer, PeerLost, Received
from transport.errors import CannotListen, HandshakeRefused, Unreachable
from transport.frame import Frame
from transport.handshake import DIALLER, PROTOCOL, WRONG_TOKEN, Introduction
from transport.security import KeyPair, split_key, with_key
from transport.settings import EndpointSettings
from transport.zmq_curve import ZAP_ADDRESS, CurveGuard
from transport.zmq_endpoint import ZmqEndpoint
from transport.zmq_guard import WRONG_SECURITY
from transport.zmq_wire import Letter, letter, read_pair, routing_id

SECRET = bytes(range(16))
KEYS = {name: KeyPair.fresh() for name in ("near", "far", "stranger", "other")}


@dataclass
class Scene:
    """Two members that are connected, and whoever else comes."""

    near: ZmqEndpoint
    far: ZmqEndpoint
    peer: Peer
    context: "zmq.Context[zmq.Socket[bytes]]"
    ending: contextlib.AsyncExitStack
    sockets: list["zmq.Socket[bytes]"] = field(default_factory=list)

    async def open(self, name: str, **different: Any) -> ZmqEndpoint:
        """Another process, with keys by its name and all as it should be but for what differs."""
        return await self.ending.enter_async_context(endpoint(name, **different))

    def dealer(self, keys: KeyPair, who: bytes = routing_id(Lane.CONTROL, SECRET)) -> "Dealer":
        """A raw encrypted connection to the far member's door."""
        socket = self.context.socket(zmq.DEALER)
        self.sockets.append(socket)
        address, key = split_key(self.far.identity.address)
        assert key is not None
        socket.setsockopt(zmq.ROUTING_ID, who)
        socket.setsockopt(zmq.CURVE_SERVERKEY, z85.encode(key))
        socket.setsockopt(zmq.CURVE_PUBLICKEY, z85.encode(keys.public))
        socket.setsockopt(zmq.CURVE_SECRETKEY, z85.encode(keys.secret))
        socket.connect(address)
        return Dealer(socket)

    async def assert_unharmed(self) -> None:
        await say(self.near, self.peer, b"there")
        await say(self.far, self.near.identity, b"back")
        assert await heads(self.far, 1) == [b"there"]
        assert await heads(self.near, 1) == [b"back"]


@dataclass
class Dealer:
    socket: "zmq.Socket[bytes]"

    def say(self, *parts: bytes) -> None:
        self.socket.send_multipart(parts)

    async def hear(self) -> bytes:
        await until(lambda: bool(self.socket.poll(0)))
        (data,) = self.socket.recv_multipart()
        return data


def endpoint(name: str, **different: Any) -> contextlib.AbstractAsyncContextManager[ZmqEndpoint]:
    usual = {"token": b"secret", "package_version": "1", "keys": KEYS.get(name)}
    return ZmqEndpoint.opened(name=name, **{**usual, **different})


@contextlib.asynccontextmanager
async def scene(settings: EndpointSettings | None = None) -> AsyncIterator[Scene]:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    async with contextlib.AsyncExitStack() as ending:
        near = await ending.enter_async_context(endpoint("near", settings=settings))
        far = await ending.enter_async_context(
            endpoint("far", settings=settings, traits={"model": "a"})
        )
        peer = await near.connect(far.identity.address, timeout_s=SOON_S)
        it = Scene(near, far, peer, context, ending)
        try:
            yield it
            await it.assert_unharmed()
        finally:
            context.destroy(0)


async def refusal(stranger: ZmqEndpoint, address: str) -> str:
    with pytest.raises(HandshakeRefused) as refused:
        await stranger.connect(address, timeout_s=SOON_S)
    return str(refused.value)


def introduction(keys: KeyPair, token: bytes = b"secret") -> Introduction:
    """What a process of this cluster says that listens nowhere."""
    identity = Peer(with_key("tcp://127.0.0.1:1", keys.public), "stranger", 77)
    return Introduction(identity, EndpointSettings(), token=token, version="1", traits={})


# --- who is refused


@pytest.mark.parametrize(
    ("different", "reason"),
    [
        ({"token": b"guessed"}, WRONG_TOKEN),
        ({"package_version": "2"}, "package version is '[12]', expected '[12]'"),
        ({"traits": {"model": "b"}}, "model is '[ab]', expected '[ab]'"),
    ],
    ids=["token", "version", "model hash"],
)
async def test_a_process_of_another_kind_is_refused_with_the_difference(
    different: dict[str, Any], reason: str
) -> None:
    async with scene() as it:
        stranger = await it.open("stranger", **different)
        with pytest.raises(HandshakeRefused, match=reason):
            await stranger.connect(it.far.identity.address, timeout_s=SOON_S)
        with pytest.raises(HandshakeRefused, match=reason):
            await it.far.connect(stranger.identity.address, timeout_s=SOON_S)


async def test_who_encrypts_for_another_key_is_told_that_it_may_have_been_rotated() -> None:
    async with scene() as it:
        stranger = await it.open("stranger")
        address, _ = split_key(it.far.identity.address)
        said = await refusal(stranger, with_key(address, KEYS["other"].public))
        assert "does not own the key" in said or "keys may have been rotated" in said
        assert address.removeprefix("tcp://") in said


async def test_a_rotated_key_ends_the_old_address_and_the_new_one_works() -> None:
    async with scene() as it:
        first = await it.open("other")
        port = int(first.identity.address.rpartition(":")[2])
        await it.near.connect(first.identity.address, timeout_s=SOON_S)
        await first.aclose()
        assert (await next_loss(it.near)).peer == first.identity
        async with reopened("other", port, KeyPair.fresh()) as second:
            said = await refusal(it.near, first.identity.address)
            assert "does not own the key" in said or "keys may have been rotated" in said
            assert await it.near.connect(second.identity.address, timeout_s=SOON_S)
        await until(lambda: it.near.statistics().num_peers == 1)
        assert isinstance(await next_event(it.near), PeerLost)


@contextlib.asynccontextmanager
async def reopened(name: str, port: int, keys: KeyPair) -> AsyncIterator[ZmqEndpoint]:
    """Another life at a port that the former one may still let go of."""
    async with contextlib.AsyncExitStack() as ending:
        async with asyncio.timeout(SOON_S):
            while True:
                try:
                    found = await ending.enter_async_context(endpoint(name, port=port, keys=keys))
                    break
                except CannotListen:
                    await asyncio.sleep(0.01)
        yield found


async def test_a_plaintext_process_is_refused_at_an_encrypted_door() -> None:
    async with scene() as it:
        plain = await it.open("plain", keys=None)
        address, _ = split_key(it.far.identity.address)
        assert WRONG_SECURITY in await refusal(plain, address)
        assert "it carries a key" in await refusal(plain, it.far.identity.address)


async def test_an_encrypted_process_does_not_speak_to_a_plaintext_one() -> None:
    async with scene() as it:
        plain = await it.open("plain", keys=None)
        assert "it carries no key" in await refusal(it.near, plain.identity.address)
        keyed = with_key(plain.identity.address, KEYS["other"].public)
        assert await refusal(it.near, keyed)
        malformed = plain.identity.address.replace("//", "//x@")
        assert "expected 43 characters" in await refusal(it.near, malformed)


async def test_a_greeting_of_another_protocol_is_refused_with_both_versions() -> None:
    async with scene() as it:
        dealer = it.dealer(KEYS["stranger"])
        hello = bytearray(introduction(KEYS["stranger"]).hello())
        assert hello[1] == PROTOCOL  # its first field
        hello[1] = PROTOCOL + 1
        dealer.say(letter(Letter.HELLO, bytes(hello)))
        said = (await dealer.hear()).decode()
        assert f"protocol version is {PROTOCOL + 1}, expected {PROTOCOL}" in said


# --- what a stranger says that has keys of its own


async def _greet(dealer: Dealer, us: Introduction) -> tuple[bytes, bytes]:
    """Shake hands up to the proof; the hello and the proof that were sent."""
    hello = us.hello()
    dealer.say(letter(Letter.HELLO, hello))
    challenge = await dealer.hear()
    assert challenge[:1] == letter(Letter.CHALLENGE), challenge
    theirs, _ = read_pair(challenge[1:])
    proof = us.prove(DIALLER, hello, theirs)
    dealer.say(letter(Letter.PROOF, proof))
    return hello, proof


async def test_a_key_that_failed_to_prove_the_token_is_not_admitted_again() -> None:
    async with scene() as it:
        dealer = it.dealer(KEYS["stranger"])
        await _greet(dealer, introduction(KEYS["stranger"], token=b"guessed"))
        assert WRONG_TOKEN in (await dealer.hear()).decode()
        stranger = await it.open("stranger")
        assert "does not admit our key" in await refusal(stranger, it.far.identity.address)
        other = await it.open("other")
        assert await other.connect(it.far.identity.address, timeout_s=SOON_S) == it.peer


async def test_a_hello_replayed_with_another_key_is_refused() -> None:
    async with scene() as it:
        dealer = it.dealer(KEYS["stranger"])
        dealer.say(letter(Letter.HELLO, introduction(KEYS["other"]).hello()))
        said = (await dealer.hear()).decode()
        assert "its address carries another key than it speaks with" in said


async def test_a_whole_handshake_replayed_with_its_own_key_is_refused() -> None:
    async with scene() as it:
        first = it.dealer(KEYS["stranger"])
        hello, proof = await _greet(first, introduction(KEYS["stranger"]))
        again = it.dealer(KEYS["stranger"], routing_id(Lane.CONTROL, bytes(16)))
        again.say(letter(Letter.HELLO, hello))
        assert (await again.hear())[:1] == letter(Letter.CHALLENGE)
        again.say(letter(Letter.PROOF, proof))
        assert WRONG_TOKEN in (await again.hear()).decode()


async def test_a_lane_of_a_peer_cannot_be_opened_with_another_key() -> None:
    async with scene() as it:
        first = it.dealer(KEYS["stranger"])
        await _greet(first, introduction(KEYS["stranger"]))
        first.say(letter(Letter.FRAME, b"mine"))
        assert await heads(it.far, 1) == [b"mine"]
        thief = it.dealer(KEYS["other"], routing_id(Lane.DATA, SECRET))
        thief.say(letter(Letter.FRAME, b"forged"))
        await until(lambda: it.far.statistics().num_malformed == 1)


async def test_an_oversized_message_costs_a_stranger_its_connection() -> None:
    async with scene(EndpointSettings(max_frame_bytes=1000)) as it:
        dealer = it.dealer(KEYS["stranger"])
        hello = introduction(KEYS["stranger"]).hello()
        dealer.say(letter(Letter.HELLO, hello))
        assert (await dealer.hear())[:1] == letter(Letter.CHALLENGE)
        monitor = dealer.socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        dealer.say(bytes(1 << 20))
        await until(lambda: bool(monitor.poll(0)))
        dealer.socket.disable_monitor()
        assert it.far.statistics().num_malformed == 0


async def test_a_storm_of_random_messages_costs_a_stranger_its_key() -> None:
    rng = random.Random(0)
    async with scene() as it:
        dealer = it.dealer(KEYS["stranger"])
        for _ in range(200):
            kind = bytes([rng.choice([*Letter, rng.randrange(256)])])
            dealer.say(kind + rng.randbytes(rng.randrange(60)))
        await until(lambda: it.far.statistics().num_malformed >= 200)
        stranger = await it.open("stranger")
        assert "does not admit our key" in await refusal(stranger, it.far.identity.address)


# --- bare connections


@pytest.mark.parametrize("size", [1, 10, 64, 5000])
async def test_garbage_on_the_bare_connection_harms_nobody(size: int) -> None:
    async with scene() as it:
        with bare(it) as connection:
            connection.sendall(random.Random(size).randbytes(size))
            await it.assert_unharmed()


async def test_clients_that_stall_within_the_encrypted_greeting_harm_nobody() -> None:
    greeting = b"\xff\0\0\0\0\0\0\0\1\x7f\3\1CURVE".ljust(64, b"\0")
    async with scene() as it:
        with contextlib.ExitStack() as stack:
            for length in range(0, 64, 4):
                stack.enter_context(bare(it)).sendall(greeting[:length])
            stack.enter_context(bare(it)).sendall(greeting + b"\x04\xc8\5HELLO" + bytes(194))
            await it.assert_unharmed()
            late = await it.open("other")
            assert await late.connect(it.far.identity.address, timeout_s=SOON_S) == it.peer


def bare(it: Scene) -> socket.socket:
    host, _, port = split_key(it.far.identity.address)[0].removeprefix("tcp://").partition(":")
    return socket.create_connection((host, int(port)), timeout=SOON_S)


async def test_members_are_served_while_strangers_crowd_the_door() -> None:
    async with scene(EndpointSettings(max_strangers=2, handshake_timeout_s=2.0)) as it:
        crowd = [KeyPair.fresh() for _ in range(2)]
        for number, keys in enumerate(crowd):
            dealer = it.dealer(keys, routing_id(Lane.CONTROL, bytes([number] * 16)))
            dealer.say(letter(Letter.HELLO, introduction(keys).hello()))
            await dealer.hear()
        late = await it.open("other")
        with pytest.raises(Unreachable, match=r"nobody answered .* strangers crowd its door"):
            await late.connect(it.far.identity.address, timeout_s=0.5)
        await say(it.near, it.peer, b"bulk", lane=Lane.BULK)  # a connection of its own, made now
        assert await heads(it.far, 1) == [b"bulk"]
        assert await late.connect(it.far.identity.address, timeout_s=SOON_S) == it.peer


# --- what is on the wire


@pytest.mark.parametrize("is_encrypted", [True, False])
async def test_nothing_that_is_said_can_be_read_on_the_wire(is_encrypted: bool) -> None:
    words = b"attack at dawn" * 8
    keys = KEYS if is_encrypted else dict.fromkeys(KEYS)
    async with (
        endpoint("near", keys=keys["near"]) as near,
        endpoint("far", keys=keys["far"]) as far,
    ):
        async with tapped(far.identity.address) as (address, taken):
            peer = await near.connect(address, timeout_s=SOON_S)
            near.send_nowait(peer, Frame(words, (words,)))
            event = await next_event(far)
            assert isinstance(event, Received)
            assert bytes(event.frame.buffers[0]) == words
        assert len(taken) > 300
        assert (words in bytes(taken)) is not is_encrypted


class _Tapped(Exception):
    """Enough was heard."""


@contextlib.asynccontextmanager
async def tapped(address: str) -> AsyncIterator[tuple[str, bytearray]]:
    """An address that leads to another, and what went there and back."""
    plain, key = split_key(address)
    host, _, port = plain.removeprefix("tcp://").partition(":")
    taken, loop = bytearray(), asyncio.get_running_loop()

    async def pump(source: socket.socket, sink: socket.socket) -> None:
        while data := await loop.sock_recv(source, 1 << 16):
            taken.extend(data)
            await loop.sock_sendall(sink, data)

    async def serve(tasks: asyncio.TaskGroup, ending: contextlib.ExitStack) -> None:
        while True:
            near = ending.enter_context((await loop.sock_accept(listener))[0])
            far = ending.enter_context(socket.create_connection((host, int(port)), SOON_S))
            for side in (near, far):
                side.setblocking(False)
            tasks.create_task(pump(near, far))
            tasks.create_task(pump(far, near))

    with contextlib.ExitStack() as ending:
        listener = ending.enter_context(socket.create_server(("127.0.0.1", 0)))
        listener.setblocking(False)
        at = f"tcp://127.0.0.1:{listener.getsockname()[1]}"
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(serve(tasks, ending))
                yield (at if key is None else with_key(at, key)), taken
                raise _Tapped
        except* (_Tapped, ConnectionError):
            pass


# --- the question that libzmq asks


@pytest.mark.parametrize(
    ("mechanism", "credentials", "status"),
    [
        (b"CURVE", [KEYS["near"].public], b"200"),
        (b"CURVE", [], b"400"),
        (b"NULL", [], b"400"),
        (b"PLAIN", [b"user", b"password"], b"400"),
    ],
)
async def test_only_a_key_is_admitted_whatever_libzmq_asks(
    mechanism: bytes, credentials: list[bytes], status: bytes
) -> None:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    guard = CurveGuard(context, KEYS["far"], (), EndpointSettings())
    try:
        asking = context.socket(zmq.REQ)
        asking.connect(ZAP_ADDRESS)
        asking.send_multipart([b"1.0", b"1", b"remuda", b"127.0.0.1", b"", mechanism, *credentials])
        await until(lambda: bool(asking.poll(0)))
        answer = asking.recv_multipart()
        assert (answer[1], answer[2]) == (b"1", status)
        assert guard.allowed.judge(KEYS["near"].public) is Verdict.ADMITTED
    finally:
        guard.close()
        context.destroy(0)
