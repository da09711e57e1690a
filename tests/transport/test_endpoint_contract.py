"""What every endpoint promises about frames, lanes and credit, whatever carries its bytes."""

import asyncio

import pytest

from tests.support.endpoints import (
    KINDS,
    SOON_S,
    Neighbourhood,
    connected,
    everywhere,
    heads,
    next_event,
    next_frame,
    say,
    until,
)
from transport.endpoint import Lane, Received
from transport.errors import FrameTooLarge, SendQueueFull
from transport.frame import Buffer, Frame
from transport.settings import MAX_BUFFERS, EndpointSettings

NARROW = EndpointSettings(window_frames=4, queue_frames=4, queue_bytes=1000)
NUMBERS = [b"%d" % number for number in range(300)]


@everywhere
async def test_frames_of_a_lane_come_in_order_both_ways(where: Neighbourhood) -> None:
    near, far, peer = await connected(where)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(say(near, peer, *NUMBERS))
        tasks.create_task(say(far, near.identity, *NUMBERS))
        there = tasks.create_task(heads(far, len(NUMBERS)))
        back = tasks.create_task(heads(near, len(NUMBERS)))
    assert there.result() == back.result() == NUMBERS


@everywhere
async def test_frames_of_a_lane_stay_in_order_through_a_narrow_window(
    where: Neighbourhood,
) -> None:
    near, far, peer = await connected(where, NARROW)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(say(near, peer, *NUMBERS[:100]))
        there = tasks.create_task(heads(far, 100))
    assert there.result() == NUMBERS[:100]


@everywhere
async def test_every_lane_keeps_its_own_order(where: Neighbourhood) -> None:
    near, far, peer = await connected(where)
    for word in NUMBERS[:90]:
        near.send_nowait(peer, Frame(word), Lane(int(word) % 3))
    came: dict[Lane, list[int]] = {lane: [] for lane in Lane}
    for _ in range(90):
        received = await next_frame(far)
        came[received.lane].append(int(received.frame.head))
    assert came == {lane: list(range(lane, 90, 3)) for lane in Lane}


@everywhere
async def test_received_frame_tells_who_sent_it_and_on_which_lane(where: Neighbourhood) -> None:
    near, far, peer = await connected(where)
    await say(near, peer, b"word", lane=Lane.BULK)
    received = await next_frame(far)
    assert (received.peer, received.lane) == (near.identity, Lane.BULK)
    assert peer == far.identity


@everywhere
async def test_buffers_come_as_they_were_sent(where: Neighbourhood) -> None:
    near, far, peer = await connected(where)
    large = bytes(range(256)) * 4096
    sent: list[Buffer] = [
        large,
        b"",
        bytearray(b"mutable"),
        memoryview(large)[5:70_000],
        b"x" * 65_536,
    ]
    await near.send(peer, Frame(b"head", tuple(sent)), Lane.BULK, timeout_s=SOON_S)
    frame = (await next_frame(far)).frame
    assert frame.head == b"head"
    assert [bytes(buffer) for buffer in frame.buffers] == [bytes(buffer) for buffer in sent]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("buffers", [(), (b"",), (b"only a buffer",)], ids=repr)
def test_frame_without_a_head_comes_too(kind: str, buffers: tuple[bytes, ...]) -> None:
    async def scenario(where: Neighbourhood) -> None:
        near, far, peer = await connected(where)
        near.send_nowait(peer, Frame(b"", buffers))
        frame = (await next_frame(far)).frame
        assert (frame.head, tuple(bytes(buffer) for buffer in frame.buffers)) == (b"", buffers)

    KINDS[kind](scenario)


@everywhere
async def test_a_sender_may_use_its_buffer_again_once_the_frame_came(
    where: Neighbourhood,
) -> None:
    near, far, peer = await connected(where)
    buffer = bytearray(b"first" * 100_000)
    near.send_nowait(peer, Frame(b"", (buffer,)))
    came = (await next_frame(far)).frame.buffers[0]
    buffer[:5] = b"OTHER"
    assert bytes(came[:5]) == b"first"


# --- credit


@everywhere
async def test_control_overtakes_a_data_lane_that_stands_still(where: Neighbourhood) -> None:
    near, far, peer = await connected(where, NARROW)
    for word in NUMBERS[:8]:
        near.send_nowait(peer, Frame(word), Lane.DATA)
    near.send_nowait(peer, Frame(b"urgent"), Lane.CONTROL)
    unreleased = [await next_frame(far, release=False) for _ in range(5)]
    came = [(received.lane, received.frame.head) for received in unreleased]
    assert (Lane.CONTROL, b"urgent") in came
    assert near.statistics().num_frames_queued == 4


@everywhere
async def test_lowest_lane_is_received_first(where: Neighbourhood) -> None:
    near, far, peer = await connected(where)
    for lane in reversed(Lane):
        near.send_nowait(peer, Frame(lane.name.encode()), lane)
    await until(lambda: far.statistics().num_frames_received == 3)
    assert await heads(far, 3) == [b"CONTROL", b"DATA", b"BULK"]


@everywhere
async def test_sender_stands_still_without_credit_and_goes_on_with_it(
    where: Neighbourhood,
) -> None:
    near, far, peer = await connected(where, NARROW)
    for word in NUMBERS[:8]:
        near.send_nowait(peer, Frame(word))
    first = [await next_frame(far, release=False) for _ in range(4)]
    assert near.statistics().num_frames_queued == 4
    for received in first:
        received.release()
    assert await heads(far, 4) == NUMBERS[4:8]
    assert near.statistics().num_frames_queued == 0


@everywhere
async def test_bytes_are_bounded_as_well(where: Neighbourhood) -> None:
    near, far, peer = await connected(where, EndpointSettings(window_bytes=1000))
    for word in (b"a" * 999, b"b" * 5000, b"c"):
        near.send_nowait(peer, Frame(word))
    first, last = [await next_frame(far, release=False) for _ in range(2)]
    assert near.statistics().num_bytes_queued == 1
    first.release()
    last.release()
    assert await heads(far, 1) == [b"c"]


@everywhere
async def test_every_lane_has_credit_of_its_own(where: Neighbourhood) -> None:
    near, far, peer = await connected(where, NARROW)
    for lane in Lane:
        for word in NUMBERS[:4]:
            near.send_nowait(peer, Frame(word), lane)
    for _ in range(12):
        await next_frame(far, release=False)
    assert near.statistics().num_frames_queued == 0


@everywhere
async def test_releasing_twice_returns_credit_once(where: Neighbourhood) -> None:
    near, far, peer = await connected(where, NARROW)
    for word in NUMBERS[:8]:
        near.send_nowait(peer, Frame(word))
    first = await next_frame(far, release=False)
    for _ in range(3):
        first.release()
    for _ in range(4):
        await next_frame(far, release=False)
    near.send_nowait(peer, Frame(b"urgent"), Lane.CONTROL)  # the data lane had time to go on
    assert (await next_frame(far)).frame.head == b"urgent"
    assert near.statistics().num_frames_queued == 3


@everywhere
async def test_full_queue_refuses_frames(where: Neighbourhood) -> None:
    near, far, peer = await connected(where, NARROW)
    for word in NUMBERS[:8]:
        near.send_nowait(peer, Frame(word))
    with pytest.raises(SendQueueFull, match="4 frames of 4 bytes wait for credit"):
        near.send_nowait(peer, Frame(b"too much"))
    assert await heads(far, 8) == NUMBERS[:8]


@everywhere
async def test_full_queue_counts_bytes(where: Neighbourhood) -> None:
    near, far, peer = await connected(where, NARROW)
    for word in NUMBERS[:5]:
        near.send_nowait(peer, Frame(word))
    with pytest.raises(SendQueueFull):
        near.send_nowait(peer, Frame(b"x" * 1000))
    near.send_nowait(peer, Frame(b"x" * 999))
    assert await heads(far, 6) == [*NUMBERS[:5], b"x" * 999]


# --- send


@everywhere
async def test_send_that_times_out_sends_nothing(where: Neighbourhood) -> None:
    near, far, peer = await connected(where, NARROW)
    await say(near, peer, *NUMBERS[:4])
    with pytest.raises(TimeoutError, match=r"no credit within 0\.05 s"):
        await near.send(peer, Frame(b"late"), timeout_s=0.05)
    assert await heads(far, 4) == NUMBERS[:4]
    await say(near, peer, b"next")
    assert await heads(far, 1) == [b"next"]
    assert near.statistics().num_frames_sent == 5


@everywhere
async def test_cancelled_send_sends_nothing(where: Neighbourhood) -> None:
    near, far, peer = await connected(where, NARROW)
    await say(near, peer, *NUMBERS[:4])
    async with asyncio.TaskGroup() as tasks:
        late = tasks.create_task(say(near, peer, b"late"))
        await asyncio.sleep(0)
        late.cancel()
    assert await heads(far, 4) == NUMBERS[:4]
    await say(near, peer, b"next")
    assert await heads(far, 1) == [b"next"]


@everywhere
async def test_senders_that_wait_keep_their_turns(where: Neighbourhood) -> None:
    near, far, peer = await connected(where, NARROW)
    async with asyncio.TaskGroup() as tasks:
        for word in NUMBERS[:20]:
            tasks.create_task(say(near, peer, word))
        there = tasks.create_task(heads(far, 20))
    assert there.result() == NUMBERS[:20]


# --- bounds


@everywhere
async def test_frame_over_our_own_bound_is_refused(where: Neighbourhood) -> None:
    near, far, peer = await connected(where, EndpointSettings(max_frame_bytes=1000))
    with pytest.raises(FrameTooLarge, match="expected at most 1000 bytes, got 1001"):
        near.send_nowait(peer, Frame(b"x", (b"y" * 1000,)))
    with pytest.raises(FrameTooLarge):
        await near.send(peer, Frame(b"x" * 1001), timeout_s=SOON_S)
    near.send_nowait(peer, Frame(b"x" * 1000))
    assert await heads(far, 1) == [b"x" * 1000]


@everywhere
async def test_frame_over_the_bound_of_the_peer_is_refused(where: Neighbourhood) -> None:
    near = await where.open("near")
    far = await where.open("far", settings=EndpointSettings(max_frame_bytes=1000))
    peer = await near.connect(far.identity.address, timeout_s=SOON_S)
    with pytest.raises(FrameTooLarge, match="expected at most 1000 bytes, got 1001"):
        near.send_nowait(peer, Frame(b"x" * 1001))


@everywhere
async def test_frame_of_too_many_buffers_is_refused(where: Neighbourhood) -> None:
    near, far, peer = await connected(where)
    with pytest.raises(FrameTooLarge, match="buffers"):
        near.send_nowait(peer, Frame(b"", (b"",) * (MAX_BUFFERS + 1)))
    near.send_nowait(peer, Frame(b"many", (b"",) * MAX_BUFFERS))
    assert len((await next_frame(far)).frame.buffers) == MAX_BUFFERS


# --- counting


@everywhere
async def test_statistics_count_what_went_and_what_came(where: Neighbourhood) -> None:
    near, far, peer = await connected(where, NARROW)
    for _ in range(6):
        near.send_nowait(peer, Frame(b"head", (b"buffer",)))
    far.send_nowait(near.identity, Frame(b"back"))
    await next_frame(near)
    for _ in range(4):
        await next_frame(far, release=False)
    ours, theirs = near.statistics(), far.statistics()
    assert (ours.num_frames_sent, ours.num_bytes_sent) == (4, 40)
    assert (ours.num_frames_queued, ours.num_bytes_queued) == (2, 20)
    assert (ours.num_frames_received, ours.num_bytes_received) == (1, 4)
    assert (theirs.num_frames_sent, theirs.num_bytes_sent) == (1, 4)
    assert (theirs.num_frames_received, theirs.num_bytes_received) == (4, 40)
    assert ours.num_peers == theirs.num_peers == 1
    assert ours.num_malformed == theirs.num_malformed == 0


@everywhere
async def test_queued_frames_of_a_lost_peer_are_counted_as_dropped(where: Neighbourhood) -> None:
    near, far, peer = await connected(where, NARROW)
    for word in NUMBERS[:7]:
        near.send_nowait(peer, Frame(word))
    await far.aclose()
    while isinstance(await next_event(near), Received):
        pass
    assert near.statistics().num_frames_dropped == 3
    assert near.statistics().num_frames_queued == 0
