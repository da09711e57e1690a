"""A request's tokens and its place in one pipeline.

The one idea: the tokens are the state, and all else can be rebuilt from them. A sequence that loses
its KV blocks keeps its tokens and computes their KV entries again. It never knows a tensor, a stage
or how a token is drawn.
"""

from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass, field
from typing import Literal

from scheduling.prefixes import extend_digests

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParameters:
    """How a sequence's tokens are drawn: carried to the last stage, never read here.

    A temperature of 0 is greedy; `top_k` 0, `top_p` 1 and `min_p` 0 keep every token. `extras` are
    bytes for whoever draws, with what most requests do not ask for.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int = 0
    extras: bytes = b""


@dataclass(slots=True, kw_only=True, eq=False)
class Sequence:
    """One request at work in a pipeline; owned and changed by its batcher alone.

    Attributes:
        token_ids: the prompt and what was generated after it.
        max_tokens: generated tokens after which it ends.
        min_tokens: generated tokens before which no stop token ends it.
        stop_token_ids: tokens that end it when drawn; they are not part of it.
        num_prompt_tokens: how many of `token_ids` are the prompt; all of them unless said. A
            request continued from elsewhere brings generated tokens along.
        num_computed: leading tokens whose KV entries are in its blocks.
        num_in_flight: tokens of it in the step under way; 0 outside a step.
        block_table: its KV block ids in order of position; empty while it waits.
        residency: how often it has been given blocks; what was known of its blocks before is void.
        parked: it takes part in no further step, and keeps its blocks: it is about to move.
        cancelled: nobody wants it; it only waits for its step to come back.
        arrival: its place in the order of arrival.
        computes_all: it shares no beginning: something is wanted of each of its prompt's tokens.
        num_found: leading tokens whose entries were there when it was given blocks first.
        num_registered: leading blocks that others may have found since it was given blocks.
        num_exact_blocks: leading blocks whose entries are as computed; None if all are. Those
            behind came encoded, or are computed from such.
        digests: of its first full blocks, as many as were asked for so far.
        distinct_prompt: bytes that stand for its prompt where penalties need it, once worked out.
    """

    request_id: str
    token_ids: list[int]
    max_tokens: int
    min_tokens: int = 0
    stop_token_ids: frozenset[int] = frozenset()
    sampling: SamplingParameters = field(default_factory=SamplingParameters)
    num_prompt_tokens: int = 0
    num_computed: int = 0
    num_in_flight: int = 0
    block_table: list[int] = field(default_factory=list)
    residency: int = 0
    parked: bool = False
    cancelled: bool = False
    arrival: int = -1
    computes_all: bool = False
    num_found: int = 0
    num_registered: int = 0
    num_exact_blocks: int | None = None
    digests: list[bytes] = field(default_factory=list)
    distinct_prompt: bytes = b""

    def __post_init__(self) -> None:
        if not self.num_prompt_tokens:
            self.num_prompt_tokens = len(self.token_ids)

    @property
    def num_tokens(self) -> int:
        """Prompt and generated tokens."""
        return len(self.token_ids)

    @property
    def num_extra_bytes(self) -> int:
        """The most that a step carries for it beside its tokens, in bytes."""
        extras = self.sampling.extras
        return len(extras) + 4 * len(self.token_ids) if extras else 0

    @property
    def num_generated(self) -> int:
        """Tokens generated so far."""
        return len(self.token_ids) - self.num_prompt_tokens

    @property
    def num_remaining(self) -> int:
        """Tokens whose KV entries are still to be computed before the next one is drawn."""
        return len(self.token_ids) - self.num_computed

    @property
    def in_flight(self) -> bool:
        """Whether a step with tokens of it is under way."""
        return self.num_in_flight > 0

    @property
    def is_decodable(self) -> bool:
        """Whether one more token is all that it lacks now."""
        return self.num_in_flight == 0 and self.num_remaining == 1 and not self.parked

    @property
    def is_decoding(self) -> bool:
        """Whether it is decodable, or will be when its step comes back."""
        if self.parked:
            return False
        if self.in_flight:
            return self.num_remaining == self.num_in_flight and not self.cancelled
        return self.num_remaining == 1

    def prefix_digests(self, block_tokens: int) -> SequenceOf[bytes]:
        """The digests of the blocks that it may share: at least one token is to be computed."""
        if self.computes_all:
            return ()
        return self._first_digests((self.num_tokens - 1) // block_tokens, block_tokens)

    def computed_digests(self, block_tokens: int) -> SequenceOf[bytes]:
        """The digests of its blocks that are full and exactly what computing gives."""
        return self._first_digests(self.num_shareable_blocks(block_tokens), block_tokens)

    def num_shareable_blocks(self, block_tokens: int) -> int:
        """How many of its blocks are full and exactly what computing gives."""
        num_full = self.num_computed // block_tokens
        return num_full if self.num_exact_blocks is None else min(num_full, self.num_exact_blocks)

    def _first_digests(self, count: int, block_tokens: int) -> SequenceOf[bytes]:
        extend_digests(self.digests, self.token_ids, block_tokens, count)
        return self.digests[:count]

    def accept(self, token_id: int) -> FinishReason | None:
        """Append a drawn token, unless it stops the sequence; say whether it has ended."""
        if token_id in self.stop_token_ids and self.num_generated >= self.min_tokens:
            return "stop"
        self.token_ids.append(token_id)
        return "length" if self.num_generated >= self.max_tokens else None
