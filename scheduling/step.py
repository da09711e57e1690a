"""What a batcher is given, sends and gives back: plain records, no decision."""

from dataclasses import dataclass, fields
from typing import Literal

from scheduling.sequence import FinishReason, Sequence

NO_TOKEN = -2
"""What a step gives for a sequence that no token may follow."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatcherSettings:
    """The bounds of a pipeline's steps and queues.

    Attributes:
        max_running: sequences that hold blocks.
        max_waiting: sequences that wait for them, not counting those preempted.
        max_step_tokens: tokens in a step.
        max_in_flight: steps under way. Only steps with prompt tokens go beyond one a stage; one
            more than the stages leaves no stage waiting while a result travels back.
        num_stages: stages of the pipeline.
        max_model_tokens: tokens of a sequence, prompt and generated: the model's context.
        prefix_sharing: sequences that begin with the same tokens share KV blocks.
        min_prefill_tokens: prompt tokens below which a step is not made smaller for the sake of
            keeping all stages busy.
    """

    max_running: int
    max_waiting: int
    max_step_tokens: int
    max_in_flight: int
    num_stages: int
    max_model_tokens: int
    min_prefill_tokens: int = 128
    prefix_sharing: bool = False

    def __post_init__(self) -> None:
        for field in fields(self):
            if field.name == "prefix_sharing":
                continue
            least = 0 if field.name == "max_waiting" else 1
            if (value := getattr(self, field.name)) < least:
                raise ValueError(f"{field.name}: expected {least} or more, got {value}")


@dataclass(frozen=True, slots=True)
class Slot:
    """A sequence's tokens `[start, start + length)` in a step; `samples` if one is drawn after."""

    sequence: Sequence
    start: int
    length: int
    samples: bool


@dataclass(frozen=True, slots=True)
class Step:
    """One forward of the pipeline over one batch."""

    number: int
    slots: tuple[Slot, ...]

    @property
    def num_tokens(self) -> int:
        """Tokens of all slots."""
        return sum(slot.length for slot in self.slots)


@dataclass(frozen=True, slots=True)
class Output:
    """Tokens of a request; `position` is that of the first among its generated tokens.

    One that `failed` has ended because no token may follow. `details` are bytes that came with the
    tokens, or with a part of the prompt, and are not read here. With the first token comes
    `num_cached`: tokens of the prompt that were not computed for it.
    """

    request_id: str
    position: int
    token_ids: tuple[int, ...]
    finish_reason: FinishReason | Literal["failed"] | None
    details: bytes = b""
    num_cached: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class BatcherStatistics:
    """What a batcher holds now, and counters since it was made.

    `num_queued_tokens` are the prompt tokens not yet sent into a step, of waiting and running ones.
    `num_free_blocks` are held by nobody, and `num_kept_blocks` of them hold a beginning that may be
    found again. Of sequences given blocks for the first time, `num_prefix_queries` are the tokens
    and `num_prefix_hits` those whose entries were found.
    """

    num_running: int
    num_waiting: int
    num_queued_tokens: int
    num_in_flight_steps: int
    num_blocks: int
    num_free_blocks: int
    num_steps: int
    num_preemptions: int
    num_kept_blocks: int = 0
    num_prefix_queries: int = 0
    num_prefix_hits: int = 0
