"""What strangers say at the door of a ZeroMQ endpoint harms nobody, and is counted."""

import asyncio
import contextlib
import os
import random
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest
import zmq

from tests.support.endpoints import (
    SOON_S,
    ZmqNeighbourhood,
    connected,
    heads,
    say,
    until,
)
from transport.endpoint import Endpoint, Lane, Peer
from transport.handshake import (
    DIALLER,
    MAX_HELLO_BYTES,
    PROTOCOL,
    WRONG_TOKEN,
    Introduction,
)
from transport.settings import EndpointSettings
from transport.zmq_wire import Letter, letter, read_pair, routing_id

SECRET = bytes(range(16))


class Stranger:
    """A raw DEALER at somebody's door."""

    def __init__(self, context: "zmq.Context[zmq.Socket[bytes]]", address: str, who: bytes) -> None:
        self.socket = context.socket(zmq.DEALER)
        if who:
            self.socket.setsockopt(zmq.ROUTING_ID, who)
        self.socket.connect(address)

    def say(self, *parts: bytes) -> None:
        self.socket.send_multipart(parts)

    async def hear(self) -> list[bytes]:
        await until(lambda: bool(self.socket.poll(0)))
        return self.socket.recv_multipart()


@dataclass(frozen=True)
class Scene:
    """An endpoint, its peer, and strangers who come to its door."""

    near: Endpoint
    far: Endpoint
    peer: Peer
    context: "zmq.Context[zmq.Socket[bytes]]"
    strangers: list[Stranger] = field(default_factory=list)

    def stranger(self, who: bytes = routing_id(Lane.CONTROL, SECRET)) -> Stranger:
        stranger = Stranger(self.context, self.far.identity.address, who)
        self.strangers.append(stranger)
        return stranger

    async def wait_malformed(self, num_malformed: int) -> None:
        await until(lambda: self.far.statistics().num_malformed >= num_malformed)
        assert self.far.statistics().num_malformed == num_malformed

    async def assert_unharmed(self) -> None:
        await say(self.near, self.peer, b"there")
        await say(self.far, self.near.identity, b"back")
        assert await heads(self.far, 1) == [b"there"]
        assert await heads(self.near, 1) == [b"back"]
        assert self.far.statistics().num_peers == 1


@contextlib.asynccontextmanager
async def scene(settings: EndpointSettings | None = None) -> AsyncIterator[Scene]:
    where = ZmqNeighbourhood()
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    try:
        near, far, peer = await connected(where, settings)
        yield Scene(near, far, peer, context)
    finally:
        context.destroy(0)
        await where.aclose()


def introduction(name: str = "stranger", token: bytes = b"secret") -> Introduction:
    """What a process of this cluster says that listens nowhere."""
    identity = Peer("tcp://127.0.0.1:1", name, 77)
    return Introduction(identity, EndpointSettings(), token=token, version="1", traits={})


@pytest.mark.parametrize("size", [1, 10, 64, 5000])
async def test_garbage_on_the_bare_connection_harms_nobody(size: int) -> None:
    async with scene() as it:
        host, _, port = it.far.identity.address.removeprefix("tcp://").partition(":")
        with socket.create_connection((host, int(port)), timeout=SOON_S) as connection:
            connection.sendall(random.Random(size).randbytes(size))
            await it.assert_unharmed()


async def test_client_that_stalls_in_its_greeting_harms_nobody() -> None:
    async with scene() as it:
        host, _, port = it.far.identity.address.removeprefix("tcp://").partition(":")
        with contextlib.ExitStack() as stack:
            for _ in range(20):
                connection = socket.create_connection((host, int(port)), timeout=SOON_S)
                stack.enter_context(connection).sendall(b"\xff\0\0\0\0\0\0\0\1\x7f\3")
            await it.assert_unharmed()
            third = ZmqNeighbourhood()
            late = await third.open("late")
            assert await late.connect(it.far.identity.address, timeout_s=SOON_S) == it.peer
            await third.aclose()


MISPLACED: dict[str, tuple[bytes, ...]] = {
    "nothing": (b"",),
    "an unknown letter": (b"?",),
    "an empty hello": (letter(Letter.HELLO),),
    "a hello that is no MessagePack": (letter(Letter.HELLO, b"\xc1"),),
    "a hello without fields": (letter(Letter.HELLO, b"\x91\x01"),),
    "an endless hello": (letter(Letter.HELLO, bytes(MAX_HELLO_BYTES + 1)),),
    "a hello with a buffer": (letter(Letter.HELLO, introduction().hello()), b"more"),
    "a proof before a hello": (letter(Letter.PROOF, bytes(32)),),
    "a goodbye": (letter(Letter.GOODBYE, b"\1"),),
    "credit": (letter(Letter.CREDIT, bytes(12)),),
    "a welcome": (letter(Letter.WELCOME),),
    "a frame": (letter(Letter.FRAME, b"head"),),
    "a frame with a buffer": (letter(Letter.FRAME, b"head"), b"buffer"),
    "three empty parts": (b"", b"", b""),
}


@pytest.mark.parametrize("what", MISPLACED)
@pytest.mark.parametrize("lane", [Lane.CONTROL, Lane.DATA])
async def test_what_a_stranger_may_not_say_is_dropped_and_counted(lane: Lane, what: str) -> None:
    async with scene() as it:
        it.stranger(routing_id(lane, SECRET)).say(*MISPLACED[what])
        await it.wait_malformed(1)
        await it.assert_unharmed()
        assert it.far.statistics().num_frames_received == 1


@pytest.mark.parametrize(
    "who", [b"", b"x", b"\x04" + SECRET, b"\x09" + SECRET, SECRET, bytes(254)], ids=len
)
async def test_routing_id_that_is_none_of_ours_is_dropped_and_counted(who: bytes) -> None:
    async with scene() as it:
        it.stranger(who).say(letter(Letter.HELLO, introduction().hello()))
        await it.wait_malformed(1)
        await it.assert_unharmed()


async def test_a_storm_of_random_messages_harms_nobody() -> None:
    rng = random.Random(0)
    async with scene() as it:
        stranger = it.stranger()
        for _ in range(500):
            kind = bytes([rng.choice([*Letter, rng.randrange(256)])])
            parts = [kind + rng.randbytes(rng.randrange(60)) for _ in range(rng.randrange(1, 4))]
            stranger.say(*parts)
        await it.wait_malformed(500)
        await it.assert_unharmed()


async def _greet(it: Scene, stranger: Stranger, token: bytes = b"secret") -> None:
    """Shake hands up to the proof."""
    us = introduction(token=token)
    hello = us.hello()
    stranger.say(letter(Letter.HELLO, hello))
    (challenge,) = await stranger.hear()
    assert challenge[:1] == letter(Letter.CHALLENGE)
    theirs, _ = read_pair(challenge[1:])
    stranger.say(letter(Letter.PROOF, us.prove(DIALLER, hello, theirs)))


async def test_proof_made_without_the_token_is_refused() -> None:
    async with scene() as it:
        stranger = it.stranger()
        await _greet(it, stranger, token=b"guessed")
        (refusal,) = await stranger.hear()
        assert refusal[:1] == letter(Letter.REFUSED)
        assert WRONG_TOKEN in refusal.decode()
        stranger.say(letter(Letter.FRAME, b"anyway"))
        await it.wait_malformed(1)
        await it.assert_unharmed()


async def test_greeting_of_another_protocol_is_refused_with_a_sentence() -> None:
    async with scene() as it:
        stranger = it.stranger()
        hello = bytearray(introduction().hello())
        assert hello[1] == PROTOCOL  # its first field
        hello[1] = PROTOCOL + 1
        stranger.say(letter(Letter.HELLO, bytes(hello)))
        (refusal,) = await stranger.hear()
        assert f"protocol version is {PROTOCOL + 1}, expected {PROTOCOL}" in refusal.decode()


async def test_greeting_twice_is_counted() -> None:
    async with scene() as it:
        stranger = it.stranger()
        for _ in range(2):
            stranger.say(letter(Letter.HELLO, introduction().hello()))
        await it.wait_malformed(1)


async def test_stranger_who_does_not_prove_itself_in_time_is_forgotten() -> None:
    async with scene(EndpointSettings(handshake_timeout_s=0.2, max_peers=2)) as it:
        stranger = it.stranger()
        us = introduction()
        stranger.say(letter(Letter.HELLO, hello := us.hello()))
        (challenge,) = await stranger.hear()
        theirs, _ = read_pair(challenge[1:])
        await _wait_until_it_is_forgotten(it)
        stranger.say(letter(Letter.PROOF, us.prove(DIALLER, hello, theirs)))
        await it.wait_malformed(1)
        await it.assert_unharmed()


async def _wait_until_it_is_forgotten(it: Scene) -> None:
    """Come as another stranger until there is a place."""
    async with asyncio.timeout(SOON_S):
        while await _is_full(it):  # noqa: ASYNC110 - nothing tells of it
            await asyncio.sleep(0.02)


async def _is_full(it: Scene) -> bool:
    second = it.stranger(routing_id(Lane.CONTROL, os.urandom(16)))
    second.say(letter(Letter.HELLO, introduction().hello()))
    (answer,) = await second.hear()
    return answer[:1] == letter(Letter.REFUSED)


async def test_strangers_count_as_peers_until_they_are_forgotten() -> None:
    async with scene(EndpointSettings(max_peers=2)) as it:
        stranger = it.stranger()
        stranger.say(letter(Letter.HELLO, introduction().hello()))
        await stranger.hear()
        second = it.stranger(routing_id(Lane.CONTROL, bytes(16)))
        second.say(letter(Letter.HELLO, introduction().hello()))
        (refusal,) = await second.hear()
        assert "2 processes are connected here already" in refusal.decode()
        await it.assert_unharmed()


async def test_peer_that_overdraws_its_credit_is_hung_up_on() -> None:
    async with scene(EndpointSettings(window_frames=4)) as it:
        stranger = it.stranger()
        await _greet(it, stranger)
        for _ in range(5):
            stranger.say(letter(Letter.FRAME, b"more"))
        (goodbye,) = await stranger.hear()
        assert goodbye[:1] == letter(Letter.GOODBYE)
        assert "it sent more than its credit" in goodbye.decode()
        assert it.far.statistics().num_malformed == 1


async def test_peer_that_sends_too_much_at_once_is_hung_up_on() -> None:
    async with scene(EndpointSettings(max_frame_bytes=1000)) as it:
        stranger = it.stranger()
        await _greet(it, stranger)
        stranger.say(letter(Letter.FRAME, b"x" * 900), b"y" * 900)
        (goodbye,) = await stranger.hear()
        assert "it sent a frame over the agreed bounds" in goodbye.decode()
