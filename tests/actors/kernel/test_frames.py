"""No frame that a peer sends harms anybody."""

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Raw

from actors.kernel.dead_letters import DeadLetter
from actors.kernel.supervision import DownReason
from actors.kernel.wire import (
    NOTHING,
    WIRE,
    Ask,
    CancelAsk,
    Fault,
    Gone,
    Refused,
    Reply,
    Tell,
    Unwatch,
    Watch,
)
from tests.actors.kernel.cast import Count, Note, Player, Wait
from tests.actors.kernel.instant import STRANGER
from tests.actors.kernel.worlds import LARGE, InstantWorld, simulated
from transport.codec import pack, unpack
from transport.endpoint import Lane
from transport.frame import Frame


def _body(plain: list[object]) -> Raw:
    return Raw(pack(plain))


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"\xc1",
        WIRE.encode(Tell("player", 0, "", 0, NOTHING)),
        WIRE.encode(Tell("player", 0, "", 0, _body(["note", "seven"]))),
        WIRE.encode(Tell("player", 0, "", 0, _body(["unknown", 1]))),
        WIRE.encode(Tell("player", 0, "", 0, _body(["note", 1, 2]))),
        WIRE.encode(Note(1)),
    ],
)
def test_malformed_frame_harms_nobody(head: bytes) -> None:
    @simulated
    async def scenario(world: InstantWorld) -> None:
        async with world.pair() as (near, far):
            player = far.spawn(Player(), name="player")
            world.network.endpoints["far"].take(STRANGER, Frame(head), Lane.DATA)
            assert await near.ask(player, Note(1), timeout_s=5) == Count(1)
            assert far.statistics().dead_letters == {DeadLetter.MALFORMED: 1}

    scenario()


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=9)
    | st.binary(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)
honest = st.sampled_from(
    [
        unpack(WIRE.encode(wire))
        for wire in (
            Tell("player", 0, "", 0, _body(["note", 1])),
            Ask("player", 0, "me", 1, _body(["note", 1]), 1, 1000),
            Reply(1, _body(["count", 1])),
            Fault(1, "ValueError", "oh", ""),
            Refused(1, "full", "oh"),
            CancelAsk("player", 1),
            Watch("player", 0, 1),
            Unwatch("player", 1),
            Gone(1, DownReason.NORMAL, ""),
        )
    ]
)


@st.composite
def tampered(draw: st.DrawFn) -> bytes:
    """A frame of ours of which one field is something else."""
    plain = list(draw(honest))
    plain[draw(st.integers(0, len(plain) - 1))] = draw(values)
    return pack(plain)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.one_of(tampered(), st.binary(max_size=40)), min_size=1, max_size=8))
def test_no_frame_of_a_peer_ends_a_system_or_changes_its_answers(heads: list[bytes]) -> None:
    @simulated
    async def scenario(world: InstantWorld) -> None:
        async with world.pair() as (near, far):
            player = far.spawn(Player(), name="other player")
            far.spawn(Player(), name="player")
            await near.ask(player, Note(1), timeout_s=5)
            for name in ("near", "far"):
                for head in heads:
                    frame = Frame(head)
                    world.network.endpoints[name].take(STRANGER, frame, Lane.CONTROL)
            assert await near.ask(player, Note(2), timeout_s=5) == Count(2)

    scenario()


def test_frame_nested_beyond_reason_is_malformed() -> None:
    deep: object = 1
    for _ in range(900):
        deep = [deep]

    @simulated
    async def scenario(world: InstantWorld) -> None:
        async with world.open("far") as far:
            player = far.spawn(Player(), name="player")
            heads = [pack(["t", "player", 0, "", 0, deep]), b"\x91" * 100_000 + b"\x01"]
            for head in heads:
                world.network.endpoints["far"].take(STRANGER, Frame(head), Lane.DATA)
            assert await far.ask(player, Note(1), timeout_s=5) == Count(1)
            await asyncio.sleep(1)
            assert far.statistics().dead_letters == {DeadLetter.MALFORMED: 2}

    scenario()


@simulated
async def test_message_of_the_bulk_lane_waits_behind_the_others(world: InstantWorld) -> None:
    async with world.open("far") as far:
        actor = Player()
        far.spawn(actor, name="player")
        endpoint = world.network.endpoints["far"]
        for number, lane in enumerate((Lane.BULK, Lane.DATA, Lane.CONTROL)):
            note = Tell("player", 0, "", 0, _body(["note", number]))
            endpoint.take(STRANGER, Frame(WIRE.encode(note)), lane)
        await asyncio.sleep(1)
        assert (actor.notes, endpoint.num_released) == ([2, 1, 0], 3)


@simulated
async def test_what_nobody_asked_for_is_ignored(world: InstantWorld) -> None:
    async with world.pair() as (near, far):
        player = far.spawn(Player(), name="player")
        waiting = asyncio.ensure_future(near.ask(player, Wait(), timeout_s=1000))
        await asyncio.sleep(0.05)
        endpoint = world.network.endpoints["near"]
        endpoint.take(STRANGER, Frame(WIRE.encode(Reply(1, _body(["count", 9])))), Lane.CONTROL)
        for wire in (
            Gone(1, DownReason.NORMAL, ""),
            Unwatch("nobody", 1),
            CancelAsk("nobody", 1),
        ):
            endpoint.take(STRANGER, Frame(WIRE.encode(wire)), Lane.CONTROL)
        await asyncio.sleep(0.05)
        assert not waiting.done()
        assert near.statistics().dead_letters == {DeadLetter.LATE_REPLY: 1}
        waiting.cancel()


@simulated
async def test_flood_of_tells_leaves_room_for_others_on_the_loop(world: InstantWorld) -> None:
    async with world.open("here", limits=LARGE) as here:
        actor = Player()
        player = here.spawn(actor, name="player")
        for number in range(1000):
            here.tell(player, Note(number))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert 0 < len(actor.notes) < 1000
