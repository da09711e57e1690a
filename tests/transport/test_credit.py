"""Credit bounds what is under way, and none of it is ever lost or made up."""

import asyncio
from collections import deque

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from transport.credit import ReceiveWindow, Release, SendWindow, wait_sent
from transport.errors import PeerGone, SendQueueFull
from transport.frame import Frame

GONE = PeerGone("far is gone")
NUM_BYTES = st.integers(0, 40)


class CreditPair(RuleBasedStateMachine):
    """A sender and a receiver, and everything under way between them."""

    @initialize(num_frames=st.integers(1, 9), num_bytes=st.integers(1, 100))
    def open(self, num_frames: int, num_bytes: int) -> None:
        self.window_frames, self.window_bytes = num_frames, num_bytes
        self.under_way: deque[Frame] = deque()
        self.credits: deque[tuple[int, int]] = deque()
        self.unreleased: list[tuple[Release, int]] = []
        self.sent: list[Frame] = []
        self.came: list[Frame] = []
        self.offered: list[Frame] = []
        self.window = SendWindow(self._put_out, max_frames=5, max_bytes=100)
        self.receiver = ReceiveWindow(
            lambda *credit: self.credits.append(credit), num_frames=num_frames, num_bytes=num_bytes
        )
        self.window.grant(num_frames, num_bytes)

    def _put_out(self, frame: Frame, num_bytes: int) -> None:
        assert frame.num_bytes == num_bytes
        self.under_way.append(frame)
        self.sent.append(frame)

    @rule(num_bytes=NUM_BYTES)
    def offer(self, num_bytes: int) -> None:
        frame = Frame(bytes(num_bytes))
        try:
            self.window.offer(frame, num_bytes)
        except SendQueueFull:
            assert self.window.num_queued == 5 or self.window.num_queued_bytes + num_bytes > 100
        else:
            self.offered.append(frame)

    @precondition(lambda self: self.under_way)
    @rule()
    def arrive(self) -> None:
        frame = self.under_way.popleft()
        release = self.receiver.take(frame.num_bytes)
        assert release is not None, "the sender had no credit for this"
        self.came.append(frame)
        self.unreleased.append((release, frame.num_bytes))

    @precondition(lambda self: self.unreleased)
    @rule(data=st.data(), num_times=st.integers(1, 3))
    def release(self, data: st.DataObject, num_times: int) -> None:
        which = data.draw(st.integers(0, len(self.unreleased) - 1))
        release, _ = self.unreleased.pop(which)
        for _ in range(num_times):
            release()

    @precondition(lambda self: self.credits)
    @rule()
    def grant(self) -> None:
        self.window.grant(*self.credits.popleft())

    @rule()
    def consume_everything(self) -> None:
        """Whatever was queued gets through as soon as the receiver consumes all it has."""
        while self.under_way or self.unreleased or self.credits:
            if self.under_way:
                self.arrive()
            elif self.unreleased:
                self.unreleased.pop()[0]()
            else:
                self.grant()
        assert self.window.is_empty
        assert [id(frame) for frame in self.came] == [id(frame) for frame in self.offered]

    @invariant()
    def no_more_is_outstanding_than_granted_and_one_frame(self) -> None:
        sizes = [frame.num_bytes for frame in self.under_way]
        sizes += [num_bytes for _, num_bytes in self.unreleased]
        assert len(sizes) <= self.window_frames
        assert sum(sizes) < self.window_bytes + 40

    @invariant()
    def queue_is_bounded_and_counted(self) -> None:
        queued = self.offered[len(self.sent) :]
        assert self.window.num_queued == len(queued) <= 5
        assert self.window.num_queued_bytes == sum(frame.num_bytes for frame in queued) <= 100

    @invariant()
    def frames_go_out_in_order(self) -> None:
        assert all(a is b for a, b in zip(self.sent, self.offered, strict=False))


CreditPair.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestCreditPair = CreditPair.TestCase


# --- senders that wait


class Sender:
    """A window that notes what went out."""

    def __init__(self, *, num_frames: int = 0) -> None:
        self.out: list[bytes] = []
        self.window = SendWindow(
            lambda frame, num_bytes: self.out.append(frame.head), max_frames=4, max_bytes=100
        )
        self.window.grant(num_frames, 1000)

    async def send(self, word: bytes, timeout_s: float = 10.0) -> None:
        waiting = self.window.offer_waiting(Frame(word), len(word))
        if waiting is not None:
            await wait_sent(self.window, waiting, timeout_s)


async def test_sender_with_credit_does_not_wait() -> None:
    sender = Sender(num_frames=1)
    await sender.send(b"word", timeout_s=0)
    assert sender.out == [b"word"]


async def test_waiting_senders_go_in_turn_between_queued_frames() -> None:
    sender = Sender()
    async with asyncio.TaskGroup() as tasks:
        sender.window.offer(Frame(b"1"), 1)
        tasks.create_task(sender.send(b"2"))
        await asyncio.sleep(0)
        sender.window.offer(Frame(b"3"), 1)
        sender.window.grant(3, 3)
    assert sender.out == [b"1", b"2", b"3"]


async def test_waiting_senders_take_no_place_of_the_bounded_queue() -> None:
    sender = Sender()
    async with asyncio.TaskGroup() as tasks:
        for number in range(9):
            tasks.create_task(sender.send(b"%d" % number))
        await asyncio.sleep(0)
        assert (sender.window.num_queued, sender.window.num_queued_bytes) == (0, 0)
        sender.window.grant(9, 9)
    assert len(sender.out) == 9


async def test_late_credit_does_not_send_what_was_given_up() -> None:
    sender = Sender()
    with pytest.raises(TimeoutError, match="no credit within 0 s"):
        await sender.send(b"late", timeout_s=0)
    sender.window.grant(1, 1)
    assert sender.out == []
    await sender.send(b"next", timeout_s=0)
    assert sender.out == [b"next"]


async def test_credit_between_a_timeout_and_its_sender_sends_nothing() -> None:
    sender = Sender()
    waiting = sender.window.offer_waiting(Frame(b"late"), 4)
    assert waiting is not None
    assert waiting.sent is not None
    waiting.sent.add_done_callback(lambda sent: sender.window.grant(1, 1))
    with pytest.raises(TimeoutError):
        await wait_sent(sender.window, waiting, 0)
    assert sender.out == []
    await sender.send(b"next", timeout_s=0)
    assert sender.out == [b"next"]


async def test_credit_between_a_cancellation_and_its_sender_sends_nothing() -> None:
    sender = Sender()
    async with asyncio.TaskGroup() as tasks:
        late = tasks.create_task(sender.send(b"late"))
        await asyncio.sleep(0)
        late.cancel()
        sender.window.grant(1, 1)
    assert late.cancelled()
    assert sender.out == []


async def test_sender_whose_frame_went_is_not_timed_out_any_more() -> None:
    sender = Sender()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(sender.send(b"word", timeout_s=0))
        await asyncio.sleep(0)
        sender.window.grant(1, 1)  # in the same round of the loop in which the timer is due
    assert sender.out == [b"word"]


# --- windows that failed


async def test_failed_window_drops_its_queue_and_tells_who_waits() -> None:
    sender = Sender()
    sender.window.offer(Frame(b"queued"), 6)
    waiting = sender.window.offer_waiting(Frame(b"waits"), 5)
    assert waiting is not None
    assert sender.window.fail(GONE) == 1
    with pytest.raises(PeerGone, match="far is gone"):
        await wait_sent(sender.window, waiting, 10)
    assert (sender.window.num_queued, sender.window.num_queued_bytes) == (0, 0)
    sender.window.grant(9, 9)
    assert sender.out == []


async def test_failed_window_takes_nothing_more() -> None:
    sender = Sender(num_frames=9)
    sender.window.fail(GONE)
    with pytest.raises(PeerGone):
        sender.window.offer(Frame(b"word"), 4)
    with pytest.raises(PeerGone):
        sender.window.offer_waiting(Frame(b"word"), 4)
    assert sender.out == []


def test_receiver_refuses_what_was_not_granted() -> None:
    window = ReceiveWindow(lambda *credit: None, num_frames=2, num_bytes=10)
    assert window.take(1) is not None
    assert window.take(1) is not None
    assert window.take(1) is None
    bytewise = ReceiveWindow(lambda *credit: None, num_frames=2, num_bytes=10)
    assert bytewise.take(11) is not None
    assert bytewise.take(0) is None


def test_credit_goes_back_in_batches_of_a_quarter_window() -> None:
    credits: list[tuple[int, int]] = []
    window = ReceiveWindow(lambda *credit: credits.append(credit), num_frames=8, num_bytes=400)
    releases = [window.take(10) for _ in range(4)]
    for release in releases:
        assert release is not None
        release()
    assert credits == [(2, 20), (2, 20)]
    large = window.take(100)
    assert large is not None
    large()
    assert credits[2:] == [(1, 100)]
