"""The batcher against a model whose next token depends on every KV entry before it."""

import zlib
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import event, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from scheduling.batcher import Batcher, BatcherSettings, Output, Step
from scheduling.blocks import BlockPool
from scheduling.errors import Infeasible, QueueFull
from scheduling.sequence import FinishReason, Sequence

VOCABULARY = 40
MAX_DRAIN_STEPS = 3000  # 12 requests of at most 40 tokens, each computed again many times over


def next_token(tokens: list[int]) -> int:
    return zlib.crc32(repr(tokens).encode()) % VOCABULARY


@dataclass
class Work:
    """What a step carries to a device: copies, as a message would."""

    tokens: list[int]
    start: int
    table: list[int]
    samples: bool


@dataclass
class FakeDevice:
    """Keeps the token of each position in its block, and draws from what it reads back."""

    block_tokens: int
    entries: dict[tuple[int, int], int] = field(default_factory=dict)

    def place(self, table: list[int], position: int) -> tuple[int, int]:
        return table[position // self.block_tokens], position % self.block_tokens

    def run(self, work: Work) -> int:
        for offset, token in enumerate(work.tokens):
            self.entries[self.place(work.table, work.start + offset)] = token
        if not work.samples:
            return -1
        end = work.start + len(work.tokens)
        return next_token([self.entries[self.place(work.table, p)] for p in range(end)])


@dataclass
class Request:
    sequence: Sequence
    prompt: list[int]
    expected: list[int]
    reason: FinishReason
    received: list[int] = field(default_factory=list)
    finished: FinishReason | None = None
    cancelled: bool = False


def undisturbed(sequence: Sequence, limit: int) -> tuple[list[int], FinishReason]:
    tokens, generated = list(sequence.token_ids), 0
    while True:
        token = next_token(tokens)
        if token in sequence.stop_token_ids and generated >= sequence.min_tokens:
            return tokens[sequence.num_prompt_tokens :], "stop"
        tokens.append(token)
        generated += 1
        if generated == sequence.max_tokens or len(tokens) == limit:
            return tokens[sequence.num_prompt_tokens :], "length"


TOKENS = st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=20)
BEGINNINGS = st.builds(
    lambda length, end: ([3] * length + end)[:20],
    st.integers(1, 16),
    st.lists(st.integers(3, 4), max_size=8),
)
PROMPTS = st.one_of(TOKENS, BEGINNINGS)
"""Many of the second kind begin alike."""


class BatcherMachine(RuleBasedStateMachine):
    @initialize(
        num_blocks=st.integers(2, 24),
        block_tokens=st.integers(1, 4),
        num_stages=st.integers(1, 3),
        max_running=st.integers(1, 8),
        max_step_tokens=st.integers(1, 24),
        min_prefill_tokens=st.integers(1, 8),
        prefix_sharing=st.booleans(),
    )
    def make(
        self,
        num_blocks: int,
        block_tokens: int,
        num_stages: int,
        max_running: int,
        max_step_tokens: int,
        min_prefill_tokens: int,
        prefix_sharing: bool,
    ) -> None:
        self.settings = BatcherSettings(
            max_running=max_running,
            max_waiting=4,
            max_step_tokens=max_step_tokens,
            max_in_flight=num_stages + 1,
            num_stages=num_stages,
            max_model_tokens=40,
            min_prefill_tokens=min_prefill_tokens,
            prefix_sharing=prefix_sharing,
        )
        self.capacity = num_blocks * block_tokens
        self.batcher = Batcher(self.settings, BlockPool(num_blocks, block_tokens))
        self.device = FakeDevice(block_tokens)
        self.requests: dict[str, Request] = {}
        self.in_flight: dict[int, tuple[Step, list[Work]]] = {}
        self.parked: set[str] = set()

    @rule(
        prompt=PROMPTS,
        max_tokens=st.integers(1, 30),
        min_tokens=st.integers(0, 3),
        stops=st.frozensets(st.integers(0, VOCABULARY - 1), max_size=4),
    )
    def add(
        self, prompt: list[int], max_tokens: int, min_tokens: int, stops: frozenset[int]
    ) -> None:
        sequence = Sequence(
            request_id=str(len(self.requests)),
            token_ids=list(prompt),
            max_tokens=max_tokens,
            min_tokens=min_tokens,
            stop_token_ids=stops,
        )
        if len(prompt) >= min(40, self.capacity + 1):
            with pytest.raises(Infeasible):
                self.batcher.add(sequence)
            return
        num_here = self.batcher.num_running + self.batcher.num_waiting
        if num_here == self.settings.max_running + self.settings.max_waiting:
            with pytest.raises(QueueFull):
                self.batcher.add(sequence)
            return
        expected, reason = undisturbed(sequence, min(40, self.capacity + 1))
        self.batcher.add(sequence)
        self.requests[sequence.request_id] = Request(sequence, prompt, expected, reason)

    @precondition(lambda self: self.requests)
    @rule(data=st.data(), end=st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=4))
    def add_one_that_begins_alike(self, data: st.DataObject, end: list[int]) -> None:
        other = data.draw(st.sampled_from(list(self.requests.values())))
        tokens = other.prompt + other.received
        self.add(tokens[: data.draw(st.integers(0, len(tokens)))] + end, 8, 0, frozenset())

    @rule()
    def send(self) -> None:
        step = self.batcher.next_step()
        if step is None:
            return
        self.check_step(step)
        works = [
            Work(
                slot.sequence.token_ids[slot.start : slot.start + slot.length],
                slot.start,
                list(slot.sequence.block_table),
                slot.samples,
            )
            for slot in step.slots
        ]
        self.in_flight[step.number] = (step, works)

    @precondition(lambda self: self.in_flight)
    @rule(data=st.data())
    def complete(self, data: st.DataObject) -> None:
        self.finish(data.draw(st.sampled_from(sorted(self.in_flight))))

    @precondition(lambda self: self.in_flight)
    @rule(data=st.data())
    def lose_a_stage(self, data: st.DataObject) -> None:
        """Some of the steps in flight were computed, and none comes back."""
        for number in data.draw(st.sets(st.sampled_from(sorted(self.in_flight)))):
            for work in self.in_flight[number][1]:
                self.device.run(work)
        self.in_flight.clear()
        self.batcher.abandon_steps()

    @precondition(lambda self: not self.in_flight)
    @rule(num_stages=st.integers(1, 4))
    def change_stages(self, num_stages: int) -> None:
        self.settings = replace(self.settings, num_stages=num_stages, max_in_flight=num_stages + 1)
        self.batcher.change_stages(num_stages)
        self.batcher.forget_prefixes()
        held = {block for s in self.batcher.running for block in s.block_table}
        for place in [place for place in self.device.entries if place[0] not in held]:
            del self.device.entries[place]

    @precondition(lambda self: not self.in_flight)
    @rule(num_more=st.integers(0, 3))
    def change_pool(self, num_more: int) -> None:
        """The blocks that are held get other numbers, the last ones first."""
        size = self.capacity // self.device.block_tokens
        held = sorted({block for s in self.batcher.running for block in s.block_table})
        numbers = {block: size + num_more - 1 - place for place, block in enumerate(held)}
        self.device.entries = {
            (numbers[block], offset): token
            for (block, offset), token in self.device.entries.items()
            if block in numbers
        }
        self.capacity += num_more * self.device.block_tokens
        self.batcher.change_pool(BlockPool(size + num_more, self.device.block_tokens), numbers)
        self.batcher.forget_prefixes()

    @rule(data=st.data())
    def preempt(self, data: st.DataObject) -> None:
        idle = [s.request_id for s in self.batcher.running if not s.in_flight]
        if idle:
            self.batcher.preempt(data.draw(st.sampled_from(idle)))

    @rule(data=st.data())
    def park(self, data: st.DataObject) -> None:
        here = [s.request_id for s in self.batcher.sequences]
        if here:
            name = data.draw(st.sampled_from(here))
            self.batcher.park(name)
            self.parked.add(name)

    @rule()
    def let_the_parked_go_on(self) -> None:
        for name in self.parked:
            self.batcher.park(name, parked=False)
        self.parked.clear()

    @precondition(lambda self: self.requests)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        request_id = data.draw(st.sampled_from(sorted(self.requests)))
        request = self.requests[request_id]
        expected = request.finished is None and not request.cancelled
        assert self.batcher.cancel(request_id) == expected
        request.cancelled |= expected

    @invariant()
    def accounts_agree(self) -> None:
        self.batcher.check_integrity()
        assert self.batcher.num_in_flight_steps <= self.settings.max_in_flight
        assert self.batcher.num_running <= self.settings.max_running
        waiting = [s for s in self.batcher.sequences if not s.block_table]
        begun = [s for s in self.batcher.running if not s.is_decoding]
        queued = sum(s.num_remaining - s.num_in_flight for s in waiting + begun)
        assert self.batcher.statistics().num_queued_tokens == queued

    def teardown(self) -> None:
        if not hasattr(self, "batcher"):
            return
        self.let_the_parked_go_on()
        for _ in range(MAX_DRAIN_STEPS):
            if not self.batcher.num_running and not self.batcher.num_waiting:
                break
            self.send()
            assert self.in_flight, "something is left, but there is nothing to do"
            self.finish(min(self.in_flight))
        assert not self.batcher.num_running, "steps are taken, but nothing comes to its end"
        for number in sorted(self.in_flight):
            self.finish(number)
        self.check_end()

    def finish(self, number: int) -> None:
        _, works = self.in_flight.pop(number)
        tokens = [self.device.run(work) for work in works]
        for output in self.batcher.complete(number, tokens):
            self.receive(output)

    def receive(self, output: Output) -> None:
        request = self.requests[output.request_id]
        assert not request.cancelled
        assert request.finished is None
        assert output.position == len(request.received)
        request.received += output.token_ids
        assert output.finish_reason != "failed"
        request.finished = output.finish_reason

    def check_step(self, step: Step) -> None:
        assert 0 < step.num_tokens <= self.settings.max_step_tokens
        others = [slot for other, _ in self.in_flight.values() for slot in other.slots]
        ids = [slot.sequence.request_id for slot in (*step.slots, *others)]
        assert len(ids) == len(set(ids))
        assert self.parked.isdisjoint(slot.sequence.request_id for slot in step.slots)
        for slot in step.slots:
            room = len(slot.sequence.block_table) * self.device.block_tokens
            assert slot.start + slot.length <= room
            assert slot.start == slot.sequence.num_computed

    def check_end(self) -> None:
        self.batcher.check_integrity()
        statistics = self.batcher.statistics()
        assert statistics.num_free_blocks == statistics.num_blocks
        if statistics.num_preemptions:
            event("a sequence was preempted")
        if statistics.num_prefix_hits:
            event("a beginning was shared")
        assert statistics.num_prefix_hits == 0 or self.settings.prefix_sharing
        for request in self.requests.values():
            if request.cancelled:
                assert request.received == request.expected[: len(request.received)]
            else:
                assert request.received == request.expected
                assert request.finished == request.reason


BatcherMachine.TestCase.settings = settings(max_examples=120, stateful_step_count=60, deadline=None)
TestBatcherMachine = BatcherMachine.TestCase
