import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from transport.bulk import BulkReceiver, Chunk, send_bulk
from transport.checksum import checksum
from transport.codec import Codec
from transport.endpoint import Lane, Peer, PeerLost, Received
from transport.errors import DecodeError, PeerGone, TransferFailed
from transport.frame import Frame
from transport.settings import EndpointSettings
from transport.zmq_endpoint import ZmqEndpoint

SENDER = Peer("memory://sender", "sender", 7)
NARROW = EndpointSettings(window_frames=2)


def received(
    offset: int, data: bytes, *, transfer: int = 1, peer: Peer = SENDER, digest: bytes | None = None
) -> Received:
    digest = checksum([data]) if digest is None else digest
    head = Codec([Chunk]).encode(Chunk(transfer, offset, digest))
    return Received(peer, Lane.BULK, Frame(head, (data,)), lambda: None)


@asynccontextmanager
async def joined(receiver: BulkReceiver) -> AsyncIterator[tuple[ZmqEndpoint, Peer, Peer]]:
    """A sending endpoint, the peer that hands what comes to the receiver, and ourselves to it."""

    async def take_all(endpoint: ZmqEndpoint) -> None:
        while True:
            event = await endpoint.receive()
            if isinstance(event, PeerLost):
                receiver.fail_peer(event.peer)
            else:
                receiver.take(event)

    async with (
        ZmqEndpoint.opened(name="sender") as sender,
        ZmqEndpoint.opened(name="receiver", settings=NARROW) as taker,
        asyncio.TaskGroup() as tasks,
    ):
        peer = await sender.connect(taker.identity.address, timeout_s=10)
        taking = tasks.create_task(take_all(taker))
        yield sender, peer, sender.identity
        taking.cancel()


@pytest.mark.parametrize("num_bytes", [0, 1, 4096, 100_001])
async def test_a_buffer_arrives_as_it_was_sent_through_a_window_of_two_chunks(
    num_bytes: int,
) -> None:
    data, copy = bytes(i * 31 % 251 for i in range(num_bytes)), bytearray(num_bytes)
    receiver = BulkReceiver()
    async with joined(receiver) as (sender, peer, ourselves):
        receiver.allot(5, ourselves, copy)
        await send_bulk(sender, peer, 5, data, timeout_s=10, chunk_bytes=4096)
        await receiver.wait(5, timeout_s=10)
    assert bytes(copy) == data


async def test_a_transfer_whose_sender_goes_away_fails_at_once() -> None:
    receiver = BulkReceiver()
    async with joined(receiver) as (sender, peer, ourselves):
        receiver.allot(5, ourselves, bytearray(10))
        await send_bulk(sender, peer, 5, bytes(4), timeout_s=10)
        await sender.aclose()
        with pytest.raises(TransferFailed, match="sender is gone"):
            await receiver.wait(5, timeout_s=10)


async def test_a_receiver_that_releases_nothing_fails_the_sender_in_time() -> None:
    async with (
        ZmqEndpoint.opened(name="sender") as sender,
        ZmqEndpoint.opened(name="receiver", settings=NARROW) as taker,
    ):
        peer = await sender.connect(taker.identity.address, timeout_s=10)
        with pytest.raises(TransferFailed, match=r"12 bytes did not fit through within 0\.2 s"):
            await send_bulk(sender, peer, 1, bytes(12), timeout_s=0.2, chunk_bytes=4)


async def test_a_peer_that_is_gone_cannot_be_sent_to() -> None:
    async with ZmqEndpoint.opened(name="sender") as sender:
        with pytest.raises(PeerGone):
            await send_bulk(sender, SENDER, 1, bytes(12), timeout_s=1)


@pytest.mark.parametrize(
    ("chunk", "reason"),
    [
        (received(0, b"abcd", transfer=2), "nobody waits for it"),
        (received(0, b"abcd", peer=Peer("memory://sender", "sender", 8)), "nobody waits for it"),
        (received(4, b"abcd"), "from 0 to at most 8, got 4 to 8"),
        (received(0, b"abcdabcda"), "from 0 to at most 8, got 0 to 9"),
        (received(0, b""), "got 0 to 0"),
        (received(0, b"abcd", digest=bytes(8)), "damaged on the way"),
    ],
)
async def test_a_chunk_that_does_not_fit_is_refused_and_nothing_is_written(
    chunk: Received, reason: str
) -> None:
    receiver, buffer = BulkReceiver(), bytearray(8)
    receiver.allot(1, SENDER, buffer)
    with pytest.raises(TransferFailed, match=reason):
        receiver.take(chunk)
    assert buffer == bytes(8)


async def test_a_damaged_transfer_fails_whoever_waits_and_a_strangers_chunk_does_not() -> None:
    receiver, buffer = BulkReceiver(), bytearray(4)
    receiver.allot(1, SENDER, buffer)
    with pytest.raises(TransferFailed):
        receiver.take(received(0, b"evil", peer=Peer("memory://evil", "evil", 3)))
    receiver.take(received(0, b"good"))
    await receiver.wait(1, timeout_s=1)
    assert buffer == b"good"
    receiver.allot(2, SENDER, buffer)
    with pytest.raises(TransferFailed):
        receiver.take(received(0, b"late", transfer=2, digest=bytes(8)))
    with pytest.raises(TransferFailed, match="damaged"):
        await receiver.wait(2, timeout_s=1)


async def test_a_transfer_that_is_late_is_forgotten_with_what_it_lacked() -> None:
    receiver = BulkReceiver()
    receiver.allot(1, SENDER, bytearray(8))
    receiver.take(received(0, b"abcd"))
    with pytest.raises(TransferFailed, match="4 of 8 bytes had come"):
        await receiver.wait(1, timeout_s=0.01)
    with pytest.raises(TransferFailed, match="nobody waits"):
        receiver.take(received(4, b"abcd"))


async def test_an_id_is_allotted_once_at_a_time() -> None:
    receiver = BulkReceiver()
    receiver.allot(1, SENDER, bytearray(8))
    with pytest.raises(TransferFailed, match="under way already"):
        receiver.allot(1, SENDER, bytearray(8))


async def test_a_frame_that_is_no_chunk_is_refused_and_its_credit_returns() -> None:
    released: list[bool] = []
    frame = Frame(b"\xc1nonsense")
    with pytest.raises(DecodeError):
        BulkReceiver().take(Received(SENDER, Lane.BULK, frame, lambda: released.append(True)))
    assert released == [True]


async def test_a_chunk_after_the_end_or_without_its_buffer_is_refused() -> None:
    receiver = BulkReceiver()
    receiver.allot(1, SENDER, bytearray(4))
    receiver.take(received(0, b"abcd"))
    with pytest.raises(TransferFailed, match="from 4 to at most 4, got 4 to 5"):
        receiver.take(received(4, b"e"))
    receiver.allot(2, SENDER, bytearray(4))
    whole = received(0, b"abcd", transfer=2)
    with pytest.raises(TransferFailed, match="expected one buffer beside a chunk, got 0"):
        receiver.take(Received(SENDER, Lane.BULK, Frame(whole.frame.head), lambda: None))
