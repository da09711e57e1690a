"""Which sequences hold KV blocks and which wait for them.

The one idea: whoever came first keeps its blocks. Sequences are admitted in order of arrival, with
blocks for all the tokens they have; when a running one must grow and no block is free, the youngest
that is not in a step gives up its blocks, keeps its tokens, and goes back to its place in the
queue. So the oldest always gets on, and what it takes is given back in the end.

It never knows what a step is beyond "this sequence is in one".
"""

from collections import deque
from collections.abc import Iterable
from collections.abc import Sequence as SequenceOf
from itertools import takewhile

from scheduling.sequence import Sequence
from scheduling.shared_blocks import SharedBlocks

_SPARE_FRACTION = 64  # 1/64 of the blocks stays free for those that run, when another is admitted


class Residents:
    """The waiting and the running sequences of a pipeline, and their blocks.

    Attributes:
        pool: the blocks; one that is changed for another knows which of the same are held.
        sequences: all of them by request id, in order of arrival.
        waiting: those without blocks, in order of arrival.
        running: those with blocks, the least recently scheduled first.
        num_preemptions: how often one lost its blocks.
        num_waiting_tokens: tokens of those that wait, most of which are to be computed.
        num_prefix_queries: tokens of those that were given blocks for the first time.
        num_prefix_hits: how many of these tokens' entries were there already.
    """

    def __init__(self, pool: SharedBlocks, *, max_running: int) -> None:
        self.pool = pool
        self.sequences: dict[str, Sequence] = {}
        self.waiting: deque[Sequence] = deque()
        self.running: dict[str, Sequence] = {}
        self.num_preemptions = 0
        self.num_waiting_tokens = 0
        self.num_prefix_queries = self.num_prefix_hits = 0
        self._max_running = max_running

    @property
    def num_vacancies(self) -> int:
        """How many more may run; those adopted may be more than are admitted."""
        return max(0, self._max_running - len(self.running))

    def enqueue(self, sequence: Sequence) -> None:
        """Put a newcomer behind all others."""
        self.sequences[sequence.request_id] = sequence
        self._queue(sequence, len(self.waiting))

    def adopt(self, sequence: Sequence) -> None:
        """Take one over that ran elsewhere; its blocks, if it has any, are taken already."""
        self.sequences[sequence.request_id] = sequence
        if sequence.block_table:
            self.running[sequence.request_id] = sequence
            self.register(sequence)
        else:
            self._queue(sequence, len(self.waiting))

    def can_admit(self) -> bool:
        """Whether the first in the queue may run now."""
        return self._is_first_eligible() and self._has_blocks_for_first()

    @property
    def is_starving(self) -> bool:
        """Whether the first in the queue might run now but for want of blocks."""
        return self._is_first_eligible() and not self._has_blocks_for_first()

    def may_outgrow(self, sequence: Sequence) -> bool:
        """Whether a running sequence may need more blocks; its last token needs no entry."""
        most = sequence.num_prompt_tokens + sequence.max_tokens - 1
        return self.pool.blocks_for(most) > len(sequence.block_table)

    def admit(self) -> Sequence | None:
        """Give the first in the queue blocks for all its tokens, if it may run now.

        Those of its beginning that are computed already are shared.
        """
        if not self.can_admit():
            return None
        sequence = self.waiting.popleft()
        self.num_waiting_tokens -= sequence.num_tokens
        self._share(sequence)
        missing = self.pool.blocks_for(sequence.num_tokens) - len(sequence.block_table)
        self.pool.extend(sequence.block_table, missing, headroom=self._headroom(sequence))
        sequence.residency += 1
        self.running[sequence.request_id] = sequence
        return sequence

    def register(self, sequence: Sequence) -> None:
        """Let others find what a sequence has computed by now, as far as blocks are full."""
        first = sequence.num_registered
        block_tokens = self.pool.block_tokens
        if not self.pool.shares or first >= sequence.num_shareable_blocks(block_tokens):
            return
        digests = sequence.computed_digests(block_tokens)
        self.pool.register(sequence.block_table[first : len(digests)], digests[first:])
        sequence.num_registered = len(digests)

    def forget_prefixes(self) -> None:
        """What is held is all that is there: nothing else is found any more."""
        self.pool.forget()
        for sequence in self.running.values():
            sequence.num_registered = 0
            self.register(sequence)

    def grow(self, sequence: Sequence) -> bool:
        """Make room for the KV entries of all tokens it has, preempting younger ones if need be.

        Returns:
            Whether there is room; if not, all that could give way are in a step or older.
        """
        missing = self.pool.blocks_for(sequence.num_tokens) - len(sequence.block_table)
        if missing <= 0:
            return True
        while self.pool.num_free < missing:
            victim = self._youngest_idle()
            if victim is None or victim.arrival <= sequence.arrival:
                return False
            self.preempt(victim)
        headroom = self._headroom(sequence)
        return self.pool.extend(sequence.block_table, missing, headroom=headroom)

    def preempt(self, sequence: Sequence) -> None:
        """Take a running sequence's blocks; it keeps its tokens and its place in the queue."""
        del self.running[sequence.request_id]
        self._free(sequence)
        self.num_preemptions += 1
        older = takewhile(lambda other: other.arrival < sequence.arrival, self.waiting)
        self._queue(sequence, sum(1 for _ in older))

    def mark_scheduled(self, sequence: Sequence) -> None:
        """Put a running sequence behind the others in the order of scheduling."""
        self.running[sequence.request_id] = self.running.pop(sequence.request_id)

    def remove(self, sequence: Sequence) -> None:
        """Forget a sequence and free what it holds."""
        del self.sequences[sequence.request_id]
        if self.running.pop(sequence.request_id, None) is None:
            self.waiting.remove(sequence)
            self.num_waiting_tokens -= sequence.num_tokens
        self._free(sequence)

    def check_integrity(self, others: Iterable[SequenceOf[int]] = ()) -> None:
        """Compare the blocks held with the blocks taken, and the queue with its order.

        Args:
            others: tables of blocks that are held for sequences which are not here.

        Raises:
            RuntimeError: a block is lost or shared with who has other tokens, a table too short, or
                the queue out of order.
        """
        tables = [sequence.block_table for sequence in self.running.values()]
        self.pool.check_integrity([*tables, *others])
        self._check_sharing()
        for sequence in self.running.values():
            entries = sequence.num_computed + sequence.num_in_flight
            if len(sequence.block_table) < self.pool.blocks_for(entries):
                raise RuntimeError(f"{sequence.request_id} has no room for {entries} KV entries")
        arrivals = [sequence.arrival for sequence in self.waiting]
        if arrivals != sorted(arrivals) or any(s.block_table for s in self.waiting):
            raise RuntimeError(f"the queue is out of order or holds blocks: {arrivals}")
        if self.running.keys() | {s.request_id for s in self.waiting} != self.sequences.keys():
            raise RuntimeError("a sequence neither runs nor waits")
        num_tokens = sum(sequence.num_tokens for sequence in self.waiting)
        if num_tokens != self.num_waiting_tokens:
            raise RuntimeError(f"{num_tokens} tokens wait, but {self.num_waiting_tokens} counted")

    def _check_sharing(self) -> None:
        """Who holds the same block has the same tokens up to its end."""
        size = self.pool.block_tokens
        first: dict[int, tuple[int, Sequence]] = {}
        for sequence in self.running.values():
            for place, block in enumerate(sequence.block_table):
                at, other = first.setdefault(block, (place, sequence))
                upto = (place + 1) * size
                is_alike = (
                    at == place
                    and upto <= min(sequence.num_computed, other.num_computed)
                    and sequence.token_ids[:upto] == other.token_ids[:upto]
                )
                if other is not sequence and not is_alike:
                    names = f"{other.request_id} and {sequence.request_id}"
                    raise RuntimeError(f"{names} hold block {block}, and have not the same tokens")

    def _share(self, sequence: Sequence) -> None:
        """Give a sequence without blocks those of its beginning that are there."""
        shared = self.pool.share(sequence.prefix_digests(self.pool.block_tokens))
        sequence.block_table = shared
        sequence.num_registered = len(shared)
        sequence.num_computed = len(shared) * self.pool.block_tokens
        if not sequence.residency and self.pool.shares:
            sequence.num_found = sequence.num_computed
            self.num_prefix_queries += sequence.num_tokens
            self.num_prefix_hits += sequence.num_found

    def _queue(self, sequence: Sequence, place: int) -> None:
        self.waiting.insert(place, sequence)
        self.num_waiting_tokens += sequence.num_tokens

    def _is_first_eligible(self) -> bool:
        return bool(self.waiting) and self.num_vacancies > 0 and not self.waiting[0].parked

    def _has_blocks_for_first(self) -> bool:
        spare = self.pool.num_blocks // _SPARE_FRACTION if self.running else 0
        first = self.waiting[0]
        num_over = self.pool.blocks_for(first.num_tokens) + spare - self.pool.num_free
        if num_over <= 0 or not self.pool.shares:
            return num_over <= 0
        found = self.pool.find(first.prefix_digests(self.pool.block_tokens))
        return num_over <= self.pool.num_held(found)

    def _headroom(self, sequence: Sequence) -> int:
        """Blocks by which it can grow yet."""
        most = sequence.num_prompt_tokens + sequence.max_tokens
        return self.pool.blocks_for(most) - self.pool.blocks_for(sequence.num_tokens)

    def _youngest_idle(self) -> Sequence | None:
        idle = (s for s in self.running.values() if not (s.in_flight or s.parked))
        return max(idle, key=lambda sequence: sequence.arrival, default=None)

    def _free(self, sequence: Sequence) -> None:
        self.pool.free(sequence.block_table)
        sequence.block_table = []
        sequence.num_computed = sequence.num_registered = 0
        sequence.num_exact_blocks = None
