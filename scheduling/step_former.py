"""Which tokens of which sequences the next step computes.

The one idea: several steps of disjoint sequences are in flight, so that every stage has one to work
on, and as few as do that, because a stage reads all its weights anew for each. With D sequences
decoding over S stages a step takes at most ceil(D / S) of them. Groups that came to be uneven even
out by themselves: what is over the share of one step joins the next.

A step decodes first and fills the rest of its token budget with prompts, whole or in chunks
(Orca, OSDI 2022: scheduling by iteration; Sarathi-Serve, OSDI 2024: chunked prefill).
"""

from collections import deque
from collections.abc import Sequence as SequenceOf
from itertools import islice

from scheduling.residents import Residents
from scheduling.sequence import Sequence
from scheduling.step import BatcherSettings, Slot

_PREFILL_PARTS_PER_STAGE = 16
"""Each later stage idles about one in so many parts of a burst until its first step comes."""
MAX_STEP_EXTRA_BYTES = 1 << 23
"""What beside its tokens a step carries for its sequences, give or take one of them."""


class StepFormer:
    """Chooses the slots of a step among the sequences that hold or can be given blocks."""

    def __init__(self, settings: BatcherSettings, residents: Residents) -> None:
        self._settings = settings
        self._residents = residents

    def form(self, *, num_in_flight: int) -> list[Slot]:
        """The slots of the next step, marked as in flight; none while there is nothing to send."""
        if not self._may_send(num_in_flight):
            return []
        draft = _Draft()
        self._take_decodes(draft)
        self._take_prefills(draft)
        return draft.slots

    def _may_send(self, num_in_flight: int) -> bool:
        """Whether one more step may be in flight; beyond one a stage only for prompts."""
        if num_in_flight >= self._settings.max_in_flight:
            return False
        if num_in_flight < self._settings.num_stages:
            return True
        return bool(self._prefilling()) or self._residents.can_admit()

    def _take_decodes(self, draft: "_Draft") -> None:
        """Fill in this step's share of the decoding sequences, longest untouched first."""
        running = list(self._residents.running.values())
        num_decoding = sum(sequence.is_decoding for sequence in running)
        share = -(-num_decoding // self._settings.num_stages)
        limit = min(share, self._settings.max_step_tokens)
        for sequence in running:
            if len(draft.slots) == limit or draft.is_heavy:
                return
            # Asked only now: an older one may just have taken its blocks, and then it is not.
            if sequence.is_decodable and self._residents.grow(sequence):
                self._take(draft, sequence, 1)

    def _take_prefills(self, draft: "_Draft") -> None:
        """Add prompts in order of arrival, those begun before those waiting.

        A burst is spread over several steps by adding no further prompt once a step has its part;
        a single prompt is cut by the token budget alone, as its chunks cannot overlap.
        """
        budget = self._settings.max_step_tokens - len(draft.slots)
        begun = deque(self._prefilling())
        part = self._prefill_part(begun)
        num_taken = 0
        while num_taken < min(budget, part) and not draft.is_heavy:
            sequence = begun.popleft() if begun else self._residents.admit()
            if sequence is None:
                return
            length = min(sequence.num_remaining, budget - num_taken)
            self._take(draft, sequence, length)
            num_taken += length

    def _prefilling(self) -> list[Sequence]:
        running = self._residents.running.values()
        return sorted(
            (s for s in running if not (s.in_flight or s.parked) and s.num_remaining > 1),
            key=lambda s: s.arrival,
        )

    def _prefill_part(self, begun: SequenceOf[Sequence]) -> int:
        """Prompt tokens this step should have, so that later stages start soon on a burst."""
        pending = sum(sequence.num_remaining for sequence in begun) + sum(
            sequence.num_tokens
            for sequence in islice(self._residents.waiting, self._residents.num_vacancies)
        )
        num_parts = max(1, _PREFILL_PARTS_PER_STAGE * (self._settings.num_stages - 1))
        return max(self._settings.min_prefill_tokens, -(-pending // num_parts))

    def _take(self, draft: "_Draft", sequence: Sequence, length: int) -> None:
        samples = length == sequence.num_remaining
        draft.add(Slot(sequence, sequence.num_computed, length, samples))
        sequence.num_in_flight = length
        self._residents.mark_scheduled(sequence)


class _Draft:
    """The slots of a step so far, and what they have to carry beside their tokens."""

    def __init__(self) -> None:
        self.slots: list[Slot] = []
        self._num_extra_bytes = 0

    def add(self, slot: Slot) -> None:
        self.slots.append(slot)
        self._num_extra_bytes += slot.sequence.num_extra_bytes

    @property
    def is_heavy(self) -> bool:
        """Whether it has as much to carry as it may."""
        return self._num_extra_bytes > MAX_STEP_EXTRA_BYTES
