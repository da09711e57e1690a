"""How every endpoint connects, and whom it refuses, whatever carries its bytes."""

import asyncio
from typing import Any

import pytest

from tests.support.endpoints import (
    KINDS,
    SOON_S,
    Neighbourhood,
    connected,
    everywhere,
    heads,
    next_loss,
    say,
)
from transport.errors import HandshakeRefused, PeerGone, Unreachable
from transport.frame import Frame
from transport.settings import EndpointSettings


@everywhere
async def test_both_can_send_as_soon_as_connect_returns(where: Neighbourhood) -> None:
    near, far, peer = await connected(where)
    near.send_nowait(peer, Frame(b"there"))
    far.send_nowait(near.identity, Frame(b"back"))
    assert await heads(far, 1) == [b"there"]
    assert await heads(near, 1) == [b"back"]


@everywhere
async def test_connecting_again_finds_the_same_peer(where: Neighbourhood) -> None:
    near, far, peer = await connected(where)
    assert await near.connect(far.identity.address, timeout_s=SOON_S) == peer
    assert await far.connect(near.identity.address, timeout_s=SOON_S) == near.identity
    assert near.statistics().num_peers == far.statistics().num_peers == 1


@everywhere
async def test_many_connects_at_once_make_one_connection(where: Neighbourhood) -> None:
    near, far = await where.open("near"), await where.open("far")
    async with asyncio.TaskGroup() as tasks:
        for _ in range(5):
            tasks.create_task(near.connect(far.identity.address, timeout_s=SOON_S))
    assert near.statistics().num_peers == far.statistics().num_peers == 1


@everywhere
async def test_two_that_connect_to_each_other_at_once_make_one_connection(
    where: Neighbourhood,
) -> None:
    near, far = await where.open("near"), await where.open("far")
    async with asyncio.TaskGroup() as tasks:
        there = tasks.create_task(near.connect(far.identity.address, timeout_s=SOON_S))
        back = tasks.create_task(far.connect(near.identity.address, timeout_s=SOON_S))
    await say(near, there.result(), *(b"%d" % number for number in range(50)))
    await say(far, back.result(), *(b"%d" % number for number in range(50)))
    assert await heads(far, 50) == await heads(near, 50)
    assert near.statistics().num_peers == far.statistics().num_peers == 1


@everywhere
async def test_everybody_can_talk_to_everybody(where: Neighbourhood) -> None:
    some = [await where.open(name) for name in ("a", "b", "c", "d")]
    async with asyncio.TaskGroup() as tasks:
        for one in some:
            for other in some:
                if one is not other:
                    tasks.create_task(one.connect(other.identity.address, timeout_s=SOON_S))
    for one in some:
        for other in some:
            if one is not other:
                one.send_nowait(other.identity, Frame(one.identity.name.encode()))
    for one in some:
        assert sorted(await heads(one, 3)) == sorted(
            other.identity.name.encode() for other in some if other is not one
        )


@everywhere
async def test_nobody_there_is_unreachable(where: Neighbourhood) -> None:
    near = await where.open("near")
    with pytest.raises(Unreachable, match=r"nobody answered at .* within 0\.2 s"):
        await near.connect(where.address_of_nobody(), timeout_s=0.2)
    assert near.statistics().num_peers == 0


@everywhere
async def test_connect_waits_for_a_process_that_starts_late(where: Neighbourhood) -> None:
    near, early = await where.open("near"), await where.open("far")
    await early.aclose()
    async with asyncio.TaskGroup() as tasks:
        peer = tasks.create_task(near.connect(early.identity.address, timeout_s=SOON_S))
        await asyncio.sleep(0.05)
        late = await where.open("far")
    assert peer.result() == late.identity


@everywhere
async def test_cancelled_connect_leaves_nothing(where: Neighbourhood) -> None:
    near = await where.open("near")
    async with asyncio.TaskGroup() as tasks:
        dial = tasks.create_task(near.connect(where.address_of_nobody(), timeout_s=SOON_S))
        await asyncio.sleep(0.01)
        dial.cancel()
    assert near.statistics().num_peers == 0


@everywhere
async def test_nobody_connects_to_itself(where: Neighbourhood) -> None:
    near = await where.open("near")
    with pytest.raises(HandshakeRefused, match="that is this very process"):
        await near.connect(near.identity.address, timeout_s=SOON_S)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("difference", "reason"),
    [
        ({"version": "2"}, r"package version is '[12]', expected '[12]'"),
        ({"token": b"guessed"}, "does not know this cluster's token"),
        ({"traits": {"model": "b"}}, r"model is '[ab]', expected '[ab]'"),
    ],
    ids=["version", "token", "trait"],
)
def test_stranger_is_refused_with_a_sentence(
    kind: str, difference: dict[str, Any], reason: str
) -> None:
    async def scenario(where: Neighbourhood) -> None:
        near = await where.open("near", traits={"model": "a"})
        stranger = await where.open("stranger", **{"traits": {"model": "a"}, **difference})
        for one, other in ((near, stranger), (stranger, near)):
            with pytest.raises(HandshakeRefused, match=reason):
                await one.connect(other.identity.address, timeout_s=SOON_S)
            with pytest.raises(PeerGone, match="is not connected"):
                one.send_nowait(other.identity, Frame(b"anyway"))
        assert near.statistics().num_peers == stranger.statistics().num_peers == 0

    KINDS[kind](scenario)


@everywhere
async def test_trait_that_only_one_side_states_is_no_difference(where: Neighbourhood) -> None:
    near = await where.open("near", traits={"model": "a"})
    far = await where.open("far", traits={"zone": "north"})
    assert await near.connect(far.identity.address, timeout_s=SOON_S) == far.identity


@everywhere
async def test_who_is_full_takes_no_more_peers(where: Neighbourhood) -> None:
    far = await where.open("far", settings=EndpointSettings(max_peers=1))
    first, second = await where.open("first"), await where.open("second")
    await first.connect(far.identity.address, timeout_s=SOON_S)
    with pytest.raises(HandshakeRefused, match="1 processes are connected here already"):
        await second.connect(far.identity.address, timeout_s=SOON_S)
    await first.aclose()
    await next_loss(far)
    assert await second.connect(far.identity.address, timeout_s=SOON_S) == far.identity


@everywhere
async def test_sending_to_whom_we_never_met_fails(where: Neighbourhood) -> None:
    near, far = await where.open("near"), await where.open("far")
    with pytest.raises(PeerGone, match=r"far at .* is not connected"):
        near.send_nowait(far.identity, Frame(b"hello"))
    with pytest.raises(PeerGone):
        await near.send(far.identity, Frame(b"hello"), timeout_s=SOON_S)
