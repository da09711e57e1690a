"""Runs the sequences of one pipeline: forms its steps and takes their results.

The one idea: it is a loop of two calls. `next_step` gives a step as long as the pipeline should
have another one, `complete` takes a step's tokens and says what each request got by them. In
between, a sequence is in at most one step, and nothing of it is touched.

The batcher owns the sequences. It never knows a tensor, a clock or who waits for the tokens.
"""

from collections.abc import Iterable, Mapping
from collections.abc import Sequence as SequenceOf
from dataclasses import replace
from types import MappingProxyType

from scheduling.blocks import BlockPool
from scheduling.errors import DuplicateRequest, Infeasible, InvalidStep, QueueFull
from scheduling.relief import surplus
from scheduling.residents import Residents
from scheduling.sequence import Sequence
from scheduling.shared_blocks import SharedBlocks
from scheduling.step import (
    NO_TOKEN,
    BatcherSettings,
    BatcherStatistics,
    Output,
    Slot,
    Step,
)
from scheduling.step_former import StepFormer

__all__ = ["Batcher", "BatcherSettings", "BatcherStatistics", "Output", "Slot", "Step"]


class Batcher:
    """Forms the steps of one pipeline and takes their results.

    Call `next_step` until it gives None, and again after every `add`, `cancel` and `complete`.
    """

    def __init__(self, settings: BatcherSettings, pool: BlockPool) -> None:
        self._settings = settings
        self._pool = SharedBlocks(pool, shares=settings.prefix_sharing)
        self._residents = Residents(self._pool, max_running=settings.max_running)
        self._former = StepFormer(settings, self._residents)
        self._in_flight: dict[int, Step] = {}
        self._num_steps = 0
        self._num_arrivals = 0

    # --- requests

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence, lowering its `max_tokens` to what the context and blocks can hold.

        Raises:
            DuplicateRequest: a sequence of that request is here already.
            Infeasible: it is over the context or all blocks, empty, or at its end.
            QueueFull: as many wait as may.
        """
        if sequence.request_id in self._residents.sequences:
            raise DuplicateRequest(f"request {sequence.request_id} is already here")
        self._check_feasible(sequence)
        if self.num_running + self.num_waiting >= self._max_requests:
            raise QueueFull(f"{self.num_waiting} requests wait and {self.num_running} run")
        sequence.max_tokens = min(
            sequence.max_tokens, self._max_total_tokens - sequence.num_prompt_tokens
        )
        sequence.arrival = self._num_arrivals
        self._num_arrivals += 1
        self._residents.enqueue(sequence)

    def cancel(self, request_id: str) -> bool:
        """Forget a request, once its step in flight is back if there is one.

        Returns:
            Whether the request was here. It gives no output any more.
        """
        sequence = self._residents.sequences.get(request_id)
        if sequence is None or sequence.cancelled:
            return False
        sequence.cancelled = True
        if not sequence.in_flight:
            self._residents.remove(sequence)
        return True

    def adopt(self, sequence: Sequence) -> None:
        """Go on with a sequence that ran elsewhere.

        What it computed is in its blocks, which were reserved or claimed here before; without
        blocks it waits its turn.

        Raises:
            DuplicateRequest: a sequence of that request is here already.
            Infeasible: what it may yet become is over all blocks; nothing was changed.
        """
        if sequence.request_id in self._residents.sequences:
            raise DuplicateRequest(f"request {sequence.request_id} is already here")
        most = sequence.num_prompt_tokens + sequence.max_tokens
        if most > self._max_total_tokens:
            raise Infeasible(f"its {most} tokens are over the {self._max_total_tokens} of here")
        sequence.arrival = self._num_arrivals
        self._num_arrivals += 1
        self._residents.adopt(sequence)

    def sequence(self, request_id: str) -> Sequence | None:
        """A sequence that is here and wanted, for reading."""
        found = self._residents.sequences.get(request_id)
        return None if found is None or found.cancelled else found

    @property
    def sequences(self) -> tuple[Sequence, ...]:
        """All that are wanted, those that came first first, for reading."""
        wanted = (s for s in self._residents.sequences.values() if not s.cancelled)
        return tuple(sorted(wanted, key=lambda sequence: sequence.arrival))

    def park(self, request_id: str, *, parked: bool = True) -> None:
        """Let a sequence take part in no further step, or let it again."""
        sequence = self.sequence(request_id)
        if sequence is not None:
            sequence.parked = parked

    def prefix_digests(self, sequence: Sequence) -> SequenceOf[bytes]:
        """The digests by which another batcher may find the beginning of a sequence."""
        return sequence.prefix_digests(self._pool.block_tokens) if self._pool.shares else ()

    def num_to_spare(self, num_blocks: int, digests: SequenceOf[bytes] = ()) -> int:
        """Blocks that are free once so many are reserved; below 0 if there are not so many."""
        found = self._pool.find(digests[:num_blocks])
        return self._pool.num_free - num_blocks + self._pool.num_held(found)

    def reserve(
        self, num_blocks: int, digests: SequenceOf[bytes] = ()
    ) -> tuple[list[int], int] | None:
        """Take blocks for a sequence that is to come, if there are so many.

        Args:
            num_blocks: how many.
            digests: of its first blocks: those of them that are here are shared.

        Returns:
            The blocks, and how many of those in front hold its entries already.
        """
        if self.num_to_spare(num_blocks, digests) < 0:
            return None
        table = self._pool.share(digests[:num_blocks])
        num_present = len(table)
        self._pool.extend(table, num_blocks - num_present)
        return table, num_present

    def claim(self, table: SequenceOf[int], digests: SequenceOf[bytes] = ()) -> None:
        """Take the very blocks that a sequence which is to come has already.

        Args:
            table: the blocks.
            digests: of those in front that are full and computed: others may have these as well.

        Raises:
            ValueError: somebody has one of them, and not with the same in it.
        """
        self._pool.claim(table, digests)

    def give_back(self, table: SequenceOf[int]) -> None:
        """Let go of blocks that were reserved for a sequence which does not come."""
        self._pool.free(table)

    def preempt(self, request_id: str) -> None:
        """Take the blocks of a running sequence that is in no step: it is computed anew later.

        Raises:
            InvalidStep: it does not run, or it is in a step.
        """
        sequence = self._residents.running.get(request_id)
        if sequence is None or sequence.in_flight:
            raise InvalidStep(f"request {request_id} cannot be preempted: it is not idle here")
        self._residents.preempt(sequence)

    # --- steps

    def next_step(self) -> Step | None:
        """The next step to send into the pipeline, or None while there is nothing to send.

        Its slots must be read before the batcher is called again.
        """
        slots = self._former.form(num_in_flight=len(self._in_flight))
        if not slots:
            return None
        step = Step(self._num_steps, tuple(slots))
        self._in_flight[step.number] = step
        self._num_steps += 1
        return step

    def complete(
        self,
        number: int,
        token_ids: SequenceOf[int],
        details: Mapping[int, bytes] = MappingProxyType({}),
    ) -> list[Output]:
        """Take the result of a step in flight.

        Args:
            number: the step's.
            token_ids: one a slot, in order; what stands where none was drawn is not read.
            details: what is to be handed on with the output of a slot, by its place in the step.

        Raises:
            InvalidStep: no such step is in flight, or a token is missing.
        """
        step = self._in_flight.get(number)
        if step is None:
            raise InvalidStep(f"step {number} is not in flight; these are: {list(self._in_flight)}")
        _check_tokens(step, token_ids)
        del self._in_flight[number]
        given = (details.get(place, b"") for place in range(len(step.slots)))
        outputs = map(self._close, step.slots, token_ids, given)
        return [output for output in outputs if output is not None]

    def step_of(self, request_id: str) -> int | None:
        """The number of the step in flight that has tokens of a request; None if none has."""
        for number, step in self._in_flight.items():
            if any(slot.sequence.request_id == request_id for slot in step.slots):
                return number
        return None

    def abandon_steps(self) -> None:
        """Forget the steps in flight, as when a stage is lost: their tokens are computed again."""
        for step in self._in_flight.values():
            for slot in step.slots:
                slot.sequence.num_in_flight = 0
                if slot.sequence.cancelled:
                    self._residents.remove(slot.sequence)
        self._in_flight.clear()

    def change_stages(self, num_stages: int) -> None:
        """Form steps for another number of stages from now on."""
        self._settings = replace(
            self._settings, num_stages=num_stages, max_in_flight=num_stages + 1
        )
        self._former = StepFormer(self._settings, self._residents)

    def change_pool(self, pool: BlockPool, numbers: Mapping[int, int]) -> None:
        """Hand out the blocks of another pool from now on.

        Those that are held are the same there, but for those that `numbers` gives another id. What
        nobody holds is found no more.

        Raises:
            ValueError: one of them is not in the new pool, or two became one; nothing was changed
                but the new pool.
        """
        running = self._residents.running.values()
        tables = [[numbers.get(block, block) for block in s.block_table] for s in running]
        blocks = SharedBlocks(pool, shares=self._settings.prefix_sharing)
        for sequence, table in zip(running, tables, strict=True):
            blocks.claim(table, sequence.computed_digests(pool.block_tokens))
        for sequence, table in zip(running, tables, strict=True):
            sequence.block_table = table
        self._pool = self._residents.pool = blocks

    def forget_prefixes(self) -> None:
        """Only what sequences hold is there any more, as when stages were changed for others."""
        self._residents.forget_prefixes()

    def surplus(self) -> Sequence | None:
        """Who should go elsewhere because blocks are short; None if they are not."""
        return surplus(self._residents)

    # --- what it holds

    @property
    def pool(self) -> SharedBlocks:
        """Its blocks; another pool once it was changed."""
        return self._pool

    @property
    def running(self) -> tuple[Sequence, ...]:
        """The sequences that hold blocks, for reading."""
        return tuple(self._residents.running.values())

    @property
    def num_running(self) -> int:
        """Sequences that hold blocks."""
        return len(self._residents.running)

    @property
    def num_waiting(self) -> int:
        """Sequences that wait for blocks."""
        return len(self._residents.waiting)

    @property
    def num_in_flight_steps(self) -> int:
        """Steps sent whose result has not come."""
        return len(self._in_flight)

    def statistics(self) -> BatcherStatistics:
        """What it holds now, and counters since it was made."""
        # Not over those that wait: under load they are many times as many.
        begun = (s for s in self._residents.running.values() if not s.is_decoding)
        num_begun_tokens = sum(s.num_remaining - s.num_in_flight for s in begun)
        return BatcherStatistics(
            num_running=self.num_running,
            num_waiting=self.num_waiting,
            num_queued_tokens=num_begun_tokens + self._residents.num_waiting_tokens,
            num_in_flight_steps=self.num_in_flight_steps,
            num_blocks=self._pool.num_blocks,
            num_free_blocks=self._pool.num_free,
            num_steps=self._num_steps,
            num_preemptions=self._residents.num_preemptions,
            num_kept_blocks=self._pool.num_kept,
            num_prefix_queries=self._residents.num_prefix_queries,
            num_prefix_hits=self._residents.num_prefix_hits,
        )

    def check_integrity(self, others: Iterable[SequenceOf[int]] = ()) -> None:
        """Compare all accounts of blocks and steps with one another.

        Args:
            others: tables of blocks that are reserved.

        Raises:
            RuntimeError: a block is lost, shared or missing, or a sequence is in two steps.
        """
        self._residents.check_integrity(others)
        slots = [slot for step in self._in_flight.values() for slot in step.slots]
        in_steps = {slot.sequence.request_id: slot.length for slot in slots}
        marked = {
            sequence.request_id: sequence.num_in_flight
            for sequence in self._residents.running.values()
            if sequence.in_flight
        }
        if len(in_steps) != len(slots) or in_steps != marked:
            raise RuntimeError(f"steps in flight hold {in_steps}, but marked are {marked}")

    # --- feasibility

    @property
    def _max_total_tokens(self) -> int:
        """Tokens at which a sequence ends: the last one drawn needs no KV entry."""
        capacity = self._pool.num_blocks * self._pool.block_tokens
        return min(self._settings.max_model_tokens, capacity + 1)

    @property
    def _max_requests(self) -> int:
        return self._settings.max_running + self._settings.max_waiting

    def _check_feasible(self, sequence: Sequence) -> None:
        if not sequence.token_ids or sequence.num_generated >= sequence.max_tokens:
            raise Infeasible(
                f"nothing to generate: {sequence.num_tokens} tokens are given and "
                f"{sequence.num_generated} of at most {sequence.max_tokens} are generated"
            )
        if sequence.num_tokens >= self._max_total_tokens:
            capacity = self._pool.num_blocks * self._pool.block_tokens
            raise Infeasible(
                f"{sequence.num_tokens} tokens leave no room for another in the context "
                f"({self._settings.max_model_tokens}) or the KV cache ({capacity})"
            )

    # --- taking a result

    def _close(self, slot: Slot, token_id: int, details: bytes) -> Output | None:
        sequence = slot.sequence
        sequence.num_in_flight = 0
        if sequence.cancelled:
            self._residents.remove(sequence)
            return None
        sequence.num_computed += slot.length
        self._residents.register(sequence)
        if slot.samples:
            return self._accept(sequence, token_id, details)
        if details:
            return Output(sequence.request_id, sequence.num_generated, (), None, details)
        return None

    def _accept(self, sequence: Sequence, token_id: int, details: bytes) -> Output:
        position = sequence.num_generated
        if token_id == NO_TOKEN:
            self._residents.remove(sequence)
            return Output(sequence.request_id, position, (), "failed")
        reason = sequence.accept(token_id)
        if reason is not None:
            self._residents.remove(sequence)
        delivered = () if reason == "stop" else (token_id,)
        num_cached = 0 if position else sequence.num_found
        return Output(sequence.request_id, position, delivered, reason, details, num_cached)


def _check_tokens(step: Step, token_ids: SequenceOf[int]) -> None:
    if len(token_ids) != len(step.slots):
        raise InvalidStep(
            f"step {step.number}: expected {len(step.slots)} tokens, got {len(token_ids)}"
        )
    for slot, token_id in zip(step.slots, token_ids, strict=True):
        if slot.samples and token_id < 0 and token_id != NO_TOKEN:
            raise InvalidStep(
                f"step {step.number}: no token for request {slot.sequence.request_id}"
            )
