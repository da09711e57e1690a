"""Bounded lanes: each first in, first out, control before data before bulk."""

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.kernel.envelope import Envelope
from actors.kernel.errors import MailboxFull
from actors.kernel.mailbox import Mailbox, MailboxLimits
from tests.actors.kernel.cast import Note
from transport.endpoint import Lane

LIMITS = MailboxLimits(max_messages=3, max_bytes=100)


def envelope(number: int, lane: Lane = Lane.DATA, num_bytes: int = 0) -> Envelope:
    return Envelope(Note(number), None, (), lane, num_bytes)


def number_of(taken: Envelope | None) -> int | None:
    if taken is None:
        return None
    assert isinstance(taken.message, Note)
    return taken.message.number


puts = st.tuples(st.just("put"), st.sampled_from(Lane), st.integers(0, 60))
steps = st.lists(st.one_of(puts, st.just(("get",)), st.tuples(st.just("discard"), st.integers(0))))


@settings(deadline=None)
@given(steps)
def test_mailbox_does_what_three_bounded_lists_do(steps: list[tuple]) -> None:  # type: ignore[type-arg]
    mailbox = Mailbox(LIMITS)
    lanes: tuple[list[Envelope], ...] = ([], [], [])
    put: list[Envelope] = []
    for number, step in enumerate(steps):
        if step[0] == "put":
            put.append(envelope(number, step[1], step[2]))
            lane = lanes[step[1]]
            size = sum(waiting.num_bytes for waiting in lane) + step[2]
            if lane and (len(lane) == 3 or size > 100):
                with pytest.raises(MailboxFull):
                    mailbox.put(put[-1])
            else:
                mailbox.put(put[-1])
                lane.append(put[-1])
        elif step[0] == "get":
            expected = next((lane.pop(0) for lane in lanes if lane), None)
            assert mailbox.get_nowait() is expected
        elif put:
            chosen = put[step[1] % len(put)]
            waits = [lane for lane in lanes if chosen in lane]
            assert mailbox.discard(chosen) is bool(waits)
            for lane in waits:
                lane.remove(chosen)
        assert len(mailbox) == sum(map(len, lanes))
        assert mailbox.num_bytes == sum(e.num_bytes for lane in lanes for e in lane)
    assert mailbox.drain_nowait() == [*lanes[0], *lanes[1], *lanes[2]]
    assert (len(mailbox), mailbox.num_bytes) == (0, 0)


def test_message_over_the_bounds_is_taken_by_an_empty_lane() -> None:
    mailbox = Mailbox(LIMITS)
    mailbox.put(envelope(1, num_bytes=1000))
    with pytest.raises(MailboxFull, match="1 messages of 1000 bytes"):
        mailbox.put(envelope(2))
    assert number_of(mailbox.get_nowait()) == 1


def test_full_data_lane_lets_control_in() -> None:
    mailbox = Mailbox(LIMITS)
    for number in range(3):
        mailbox.put(envelope(number))
    mailbox.put(envelope(9, Lane.CONTROL))
    assert number_of(mailbox.get_nowait()) == 9


def test_what_must_come_comes_past_the_bounds() -> None:
    mailbox = Mailbox(LIMITS)
    for number in range(5):
        mailbox.put(envelope(number), always=True)
    assert len(mailbox) == 5


async def test_consumer_wakes_for_a_message() -> None:
    mailbox = Mailbox(LIMITS)
    waiting = asyncio.ensure_future(mailbox.wait())
    await asyncio.sleep(0)
    assert not waiting.done()
    mailbox.put(envelope(1))
    mailbox.put(envelope(2))
    await waiting
    await mailbox.wait()


async def test_consumer_wakes_when_told_to() -> None:
    mailbox = Mailbox(LIMITS)
    waiting = asyncio.ensure_future(mailbox.wait())
    await asyncio.sleep(0)
    mailbox.wake()
    mailbox.wake()
    await waiting
    assert mailbox.get_nowait() is None


async def test_consumer_that_was_cancelled_leaves_no_trace() -> None:
    mailbox = Mailbox(LIMITS)
    waiting = asyncio.ensure_future(mailbox.wait())
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    mailbox.put(envelope(1))
    assert number_of(mailbox.get_nowait()) == 1
