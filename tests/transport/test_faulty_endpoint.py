"""Links that are cut and slowed on purpose, on virtual time."""

import asyncio
import doctest
import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.kernel.virtual_time import run
from tests.support.endpoints import (
    SOON_S,
    FaultyNeighbourhood,
    ZmqNeighbourhood,
    disturbed,
    heads,
    lived,
    next_frame,
    next_loss,
    say,
)
from transport import disturbance
from transport.disturbance import MAX_FOR_S, Disturbance
from transport.endpoint import Endpoint, Lane, Peer
from transport.errors import (
    EndpointClosed,
    FrameTooLarge,
    PeerGone,
    SendQueueFull,
    Unreachable,
)
from transport.faulty_endpoint import FaultyEndpoint
from transport.frame import Frame
from transport.settings import EndpointSettings
from transport.zmq_endpoint import ZmqEndpoint

NARROW = EndpointSettings(queue_frames=4, queue_bytes=1000, max_frame_bytes=5000)
TIMEOUT_S = EndpointSettings().peer_timeout_s
BLINK_S = TIMEOUT_S / 2
"""A cut that nobody notices."""
CUT_S = 3 * TIMEOUT_S


def cut(*others: Endpoint, for_s: float = CUT_S, name: str = "cut") -> Disturbance:
    peers = frozenset(other.identity.address for other in others)
    return Disturbance(name=name, peers=peers, for_s=for_s, is_cut=True)


def slow(
    *others: Endpoint, latency_s: float = 0.0, bytes_per_s: float = math.inf, for_s: float = 60.0
) -> Disturbance:
    peers = frozenset(other.identity.address for other in others)
    return Disturbance(
        name="slow", peers=peers, for_s=for_s, latency_s=latency_s, bytes_per_s=bytes_per_s
    )


async def two(
    where: FaultyNeighbourhood, settings: EndpointSettings | None = None
) -> tuple[FaultyEndpoint, FaultyEndpoint, Peer]:
    near = await where.open("near", settings=settings)
    far = await where.open("far", settings=settings)
    return near, far, await near.connect(far.identity.address, timeout_s=SOON_S)


def now() -> float:
    return asyncio.get_running_loop().time()


# --- cut


@disturbed
async def test_a_short_cut_costs_time_and_no_frame(where: FaultyNeighbourhood) -> None:
    near, far, peer = await two(where)
    near.disturb(cut(far, for_s=BLINK_S))
    began = now()
    await say(near, peer, b"one", b"two")
    assert await heads(far, 2) == [b"one", b"two"]
    assert now() - began >= BLINK_S


@pytest.mark.parametrize("cutter", ["near", "far"])
def test_a_cut_at_either_end_loses_the_peer_at_both(cutter: str) -> None:
    async def scenario(where: FaultyNeighbourhood) -> None:
        near, far, peer = await two(where)
        await say(near, peer, b"before")
        await next_frame(far)
        (near if cutter == "near" else far).disturb(cut(near, far))
        began = now()
        await say(near, peer, b"into nothing")
        assert (await next_loss(near)).peer == peer
        assert now() - began >= TIMEOUT_S
        assert (await next_loss(far)).peer == near.identity
        with pytest.raises(PeerGone):
            near.send_nowait(peer, Frame(b"after"))

    run(lambda rng: lived(scenario, FaultyNeighbourhood(rng)), seed=0)


@disturbed
async def test_what_went_into_a_cut_that_lost_the_peer_never_comes(
    where: FaultyNeighbourhood,
) -> None:
    near, far, peer = await two(where)
    for one, other in ((near, far), (far, near)):
        one.disturb(cut(other))
    await say(near, peer, b"lost")
    await next_loss(near)
    again = await near.connect(far.identity.address, timeout_s=SOON_S)
    await say(near, again, b"found")
    async with asyncio.timeout(SOON_S):
        events = [await far.receive(), await far.receive()]
    assert [getattr(event, "peer", None) for event in events] == [near.identity] * 2
    assert events[1].frame.head == b"found"  # type: ignore[union-attr]
    assert near.statistics().num_frames_dropped == 1


@disturbed
async def test_nobody_answers_behind_a_cut_until_it_ends(where: FaultyNeighbourhood) -> None:
    near, far = await where.open("near"), await where.open("far")
    near.disturb(cut(far))
    began = now()
    with pytest.raises(Unreachable, match="nobody answered at memory://far within 1 s"):
        await near.connect(far.identity.address, timeout_s=1.0)
    assert now() - began >= 1.0
    await near.connect(far.identity.address, timeout_s=SOON_S)
    assert CUT_S <= now() - began < CUT_S + 1.0


@disturbed
async def test_a_stranger_who_does_not_know_of_a_cut_is_lost_again_by_it(
    where: FaultyNeighbourhood,
) -> None:
    near, far = await where.open("near"), await where.open("far")
    near.disturb(cut(far))
    peer = await far.connect(near.identity.address, timeout_s=SOON_S)
    await say(far, peer, b"hello?")
    await next_loss(far)
    assert (await next_loss(near)).peer == far.identity


@disturbed
async def test_only_the_peers_that_are_named_are_cut_off(where: FaultyNeighbourhood) -> None:
    near, far, _ = await two(where)
    third = await where.open("third")
    peer = await near.connect(third.identity.address, timeout_s=SOON_S)
    near.disturb(cut(far))
    await say(near, peer, b"clear")
    assert await heads(third, 1) == [b"clear"]


@disturbed
async def test_a_cut_that_is_taken_back_in_time_is_not_noticed(
    where: FaultyNeighbourhood,
) -> None:
    near, far, peer = await two(where)
    near.disturb(cut(far))
    await say(near, peer, b"held")
    await asyncio.sleep(BLINK_S)
    near.mend("cut")
    near.mend("cut")
    assert await heads(far, 1) == [b"held"]
    await asyncio.sleep(CUT_S)
    await say(near, peer, b"still there")
    assert await heads(far, 1) == [b"still there"]


@disturbed
async def test_of_two_cuts_the_longer_one_holds(where: FaultyNeighbourhood) -> None:
    near, far, peer = await two(where)
    near.disturb(cut(far, for_s=BLINK_S / 2, name="short"))
    near.disturb(cut(far, for_s=BLINK_S, name="long"))
    began = now()
    await say(near, peer, b"held")
    await heads(far, 1)
    assert now() - began >= BLINK_S


@disturbed
async def test_what_comes_in_during_a_cut_is_held_in_order(where: FaultyNeighbourhood) -> None:
    near, far, peer = await two(where)
    far.disturb(cut(near, for_s=BLINK_S))
    await say(near, peer, b"one", b"two")
    began = now()
    assert await heads(far, 2) == [b"one", b"two"]
    assert now() - began >= BLINK_S - 0.1


@disturbed
async def test_what_a_cut_holds_is_bounded(where: FaultyNeighbourhood) -> None:
    near, far, peer = await two(where, NARROW)
    near.disturb(cut(far))
    for word in (b"1", b"2", b"3", b"4"):
        near.send_nowait(peer, Frame(word))
    with pytest.raises(SendQueueFull, match="4 frames of 4 bytes are held back"):
        near.send_nowait(peer, Frame(b"5"))
    with pytest.raises(TimeoutError, match="no room on the disturbed link"):
        await near.send(peer, Frame(b"5"), timeout_s=0.1)
    near.send_nowait(peer, Frame(b"x" * 900), Lane.BULK)
    with pytest.raises(SendQueueFull):
        near.send_nowait(peer, Frame(b"x" * 900), Lane.BULK)
    held = near.statistics()
    assert (held.num_frames_queued, held.num_bytes_queued) == (5, 904)


@disturbed
async def test_whoever_waits_for_room_learns_that_the_peer_is_gone(
    where: FaultyNeighbourhood,
) -> None:
    near, far, peer = await two(where, NARROW)
    near.disturb(cut(far))
    for word in (b"1", b"2", b"3", b"4"):
        near.send_nowait(peer, Frame(word))
    with pytest.raises(PeerGone):
        await near.send(peer, Frame(b"5"), timeout_s=SOON_S)


@disturbed
async def test_a_frame_that_is_too_large_is_refused_at_once_on_a_disturbed_link(
    where: FaultyNeighbourhood,
) -> None:
    near, far, peer = await two(where, NARROW)
    near.disturb(slow(far, latency_s=1.0))
    with pytest.raises(FrameTooLarge, match="at most 5000 bytes, got 5001"):
        near.send_nowait(peer, Frame(b"x" * 5001))
    with pytest.raises(FrameTooLarge, match="buffers"):
        near.send_nowait(peer, Frame(b"", (b"",) * 2000))


@disturbed
async def test_a_peer_with_narrower_bounds_is_lost_rather_than_a_frame_in_the_middle(
    where: FaultyNeighbourhood,
) -> None:
    near = await where.open("near")
    far = await where.open("far", settings=NARROW)
    peer = await near.connect(far.identity.address, timeout_s=SOON_S)
    near.disturb(slow(far, latency_s=0.1))
    near.send_nowait(peer, Frame(b"x" * 5001))
    assert "at most 5000 bytes" in str((await next_loss(near)).error)


# --- slow


@disturbed
async def test_a_slow_link_lets_everything_through_later(where: FaultyNeighbourhood) -> None:
    near, far, peer = await two(where)
    near.disturb(slow(far, latency_s=2.0))
    began = now()
    await say(near, peer, b"one", b"two")
    assert await heads(far, 2) == [b"one", b"two"]
    assert 2.0 <= now() - began < 2.1


@disturbed
async def test_a_slow_link_carries_so_many_bytes_a_second_over_all_lanes(
    where: FaultyNeighbourhood,
) -> None:
    near, far, peer = await two(where)
    near.disturb(slow(far, bytes_per_s=1000.0))
    began = now()
    for lane in (Lane.BULK, Lane.DATA, Lane.CONTROL):
        near.send_nowait(peer, Frame(b"x" * 1000), lane)
    came = [(await next_frame(far)).lane for _ in range(3)]
    assert came == [Lane.BULK, Lane.DATA, Lane.CONTROL]
    assert 3.0 <= now() - began < 3.1


@disturbed
async def test_what_waits_on_a_slow_link_goes_at_once_when_it_is_whole(
    where: FaultyNeighbourhood,
) -> None:
    near, far, peer = await two(where)
    near.disturb(slow(far, latency_s=9.0, for_s=1.0))
    began = now()
    await say(near, peer, b"one", b"two")
    assert await heads(far, 2) == [b"one", b"two"]
    assert 1.0 <= now() - began < 1.1
    await say(near, peer, b"three")
    assert await heads(far, 1) == [b"three"]
    assert now() - began < 1.2


@disturbed
async def test_whoever_sends_over_a_slow_link_waits_for_room(where: FaultyNeighbourhood) -> None:
    near, far, peer = await two(where, NARROW)
    near.disturb(slow(far, bytes_per_s=1.0))
    words = [b"%d" % number for number in range(10)]
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(_send_each(near, peer, words))
        came = tasks.create_task(_heads_in(far, 10, 60.0))
    assert came.result() == words


async def _send_each(near: Endpoint, peer: Peer, words: list[bytes]) -> None:
    for word in words:
        await near.send(peer, Frame(word), timeout_s=60.0)


async def _heads_in(far: Endpoint, num_frames: int, timeout_s: float) -> list[bytes]:
    came: list[bytes] = []
    async with asyncio.timeout(timeout_s):
        while len(came) < num_frames:
            event = await far.receive()
            came.append(event.frame.head)  # type: ignore[union-attr]
            event.release()  # type: ignore[union-attr]
    return came


@disturbed
async def test_a_frame_that_finds_no_credit_is_offered_again(where: FaultyNeighbourhood) -> None:
    settings = EndpointSettings(window_frames=2, queue_frames=2)
    near, far, peer = await two(where, settings)
    words = [b"%d" % number for number in range(6)]
    for word in words[:4]:  # two under way, two that wait for credit
        near.send_nowait(peer, Frame(word))
    near.disturb(slow(far, latency_s=0.1))
    for word in words[4:]:
        near.send_nowait(peer, Frame(word))
    await asyncio.sleep(1.0)
    assert await heads(far, 6) == words


@given(
    sizes=st.lists(
        st.tuples(st.integers(1, 2000), st.sampled_from(list(Lane))), min_size=1, max_size=30
    ),
    changes=st.lists(
        st.tuples(st.floats(0.01, 2.0), st.sampled_from(["cut", "slow", "mend"])), max_size=6
    ),
    seed=st.integers(0, 99),
)
def test_no_disturbance_changes_the_order_of_a_lane_or_loses_a_frame_of_a_living_link(
    sizes: list[tuple[int, Lane]], changes: list[tuple[float, str]], seed: int
) -> None:
    async def scenario(where: FaultyNeighbourhood) -> None:
        near, far, peer = await two(where)
        sent: dict[Lane, list[bytes]] = {lane: [] for lane in Lane}
        chance = random.Random(seed)

        async def disturb() -> None:
            for after_s, what in changes:
                await asyncio.sleep(after_s)
                if what == "mend":
                    near.mend("slow")
                else:
                    blink = cut(far, for_s=chance.uniform(0.01, 0.5))
                    near.disturb(blink if what == "cut" else slow(far, bytes_per_s=3000.0))
                await asyncio.sleep(0.6)  # two cuts in a row would be one long one

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(disturb())
            for number, (size, lane) in enumerate(sizes):
                head = b"%d:" % number + b"x" * size
                sent[lane].append(head)
                await near.send(peer, Frame(head), lane, timeout_s=SOON_S)
                await asyncio.sleep(chance.uniform(0.0, 0.3))
        came: dict[Lane, list[bytes]] = {lane: [] for lane in Lane}
        for _ in sizes:
            async with asyncio.timeout(60.0):
                event = await far.receive()
            came[event.lane].append(event.frame.head)  # type: ignore[union-attr]
            event.release()  # type: ignore[union-attr]
        assert came == sent

    run(lambda rng: lived(scenario, FaultyNeighbourhood(rng)), seed=seed)


# --- the whole


@disturbed
async def test_the_disturbances_of_now_are_told_with_the_time_that_is_left(
    where: FaultyNeighbourhood,
) -> None:
    near, far, _ = await two(where)
    near.disturb(cut(far, for_s=5.0))
    near.disturb(slow(far, latency_s=0.1, for_s=1.0))
    await asyncio.sleep(2.0)
    (left,) = near.disturbances
    assert (left.name, left.is_cut) == ("cut", True)
    assert left.for_s == pytest.approx(3.0)


@disturbed
async def test_a_closed_endpoint_takes_no_disturbance_and_ends_those_it_has(
    where: FaultyNeighbourhood,
) -> None:
    near, far, peer = await two(where)
    near.disturb(slow(far, latency_s=9.0))
    near.send_nowait(peer, Frame(b"at last"))
    await near.aclose()
    assert await heads(far, 1) == [b"at last"]
    with pytest.raises(EndpointClosed):
        near.disturb(cut(far))
    with pytest.raises(EndpointClosed):
        near.send_nowait(peer, Frame(b"too late"))
    await near.aclose()


async def test_zmq_peers_lose_each_other_over_a_cut_and_find_each_other_after_it() -> None:
    settings = EndpointSettings(peer_timeout_s=0.4)
    where = ZmqNeighbourhood()
    inner = [await where.open(name, settings=settings) for name in ("near", "far")]
    assert all(isinstance(endpoint, ZmqEndpoint) for endpoint in inner)
    near, far = (FaultyEndpoint(e, settings) for e in inner if isinstance(e, ZmqEndpoint))
    peer = await near.connect(far.identity.address, timeout_s=SOON_S)
    await say(near, peer, b"before")
    await next_frame(far)
    near.disturb(cut(far, for_s=1.0))
    far.disturb(cut(near, for_s=1.0))
    assert (await next_loss(near)).peer == peer
    assert (await next_loss(far)).peer == near.identity
    again = await near.connect(far.identity.address, timeout_s=SOON_S)
    await say(near, again, b"after")
    assert await heads(far, 1) == [b"after"]
    await near.aclose()
    await far.aclose()
    await where.aclose()


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"peers": frozenset()}, "at least one address"),
        ({"for_s": 0.0}, "for_s: expected above 0"),
        ({"for_s": MAX_FOR_S + 1}, "for_s: expected above 0"),
        ({"for_s": math.nan}, "for_s: expected above 0"),
        ({"latency_s": -1.0}, "latency_s: expected 0"),
        ({"bytes_per_s": 0.0}, "bytes_per_s: expected above 0"),
        ({"is_cut": False}, "neither cuts nor slows"),
    ],
)
def test_a_disturbance_that_makes_no_sense_is_refused(
    wrong: dict[str, object], sentence: str
) -> None:
    right: dict[str, object] = {
        "name": "cut",
        "peers": frozenset({"a"}),
        "for_s": 1.0,
        "is_cut": True,
    }
    with pytest.raises(ValueError, match=sentence):
        Disturbance(**(right | wrong))  # type: ignore[arg-type]


def test_the_example_of_a_pace_is_right() -> None:
    found = doctest.testmod(disturbance)
    assert found.attempted > 0
    assert found.failed == 0
