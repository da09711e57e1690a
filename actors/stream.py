"""One request's tokens on their way to whoever reads them, and what it takes to go on elsewhere.

The one idea: prompt and delivered tokens are all that a request is. Tokens say at which position
they start, so that what comes twice adds nothing and a hole is noticed; whoever continues the
request is given what was delivered and writes what follows. Pure but for the queue that its reader
waits at: it never knows an actor or a clock.
"""

import asyncio
from dataclasses import dataclass, field

import msgspec

from actors.kernel.ref import Ref
from actors.messages import Generate, Taker, TokensOf

MAX_FRUITLESS_RECOVERIES = 3
"""A request that was started so often without a token in between may itself be what kills."""

MAX_EARLY = 64
"""So many steps' tokens are kept for those in front of them."""


@dataclass(frozen=True, slots=True)
class Failed:
    """The end of a stream that cannot go on."""

    kind: str
    reason: str


@dataclass(frozen=True, slots=True)
class Note:
    """News of a stream that is no token: what happened to it, in a line."""

    text: str


@dataclass(slots=True, eq=False)
class Stream:
    """A request from its first attempt to its end.

    `updates` holds at most an entry a step, and a request has at most `max_tokens` steps; notes
    come with tokens.

    Attributes:
        generate: the request as it came.
        pipeline: the pipeline that has it, empty while none does.
        ref: that pipeline's actor.
        attempt: how often it was sent, which its name on the wire carries.
        delivered: generated tokens handed on so far.
        num_recoveries: how often it went on after a loss.
        num_fruitless: losses since the last token.
        last_token_at: when that came, or when the stream began.
        held_s: how long no pipeline had it before its first token.
        held_since: when that began last.
        between_s: from its first token to the next, if it was to be handed off; 0 if it was not.
        goes_on_at: the pipeline that is to go on with it after its first token, if it is to be
            handed off and was not yet.
        takers: every pipeline that may have been asked to.
        early: what came before the tokens in front of it, since these come from elsewhere.
        lost_to: what the present recovery is from, empty if there is none under way.
    """

    generate: Generate
    last_token_at: float
    pipeline: str = ""
    ref: Ref | None = None
    attempt: int = 0
    delivered: list[int] = field(default_factory=list)
    num_recoveries: int = 0
    num_fruitless: int = 0
    lost_to: str = ""
    goes_on_at: str = ""
    takers: tuple[Ref, ...] = ()
    early: list[TokensOf] = field(default_factory=list)
    may_be_early: bool = False
    held_s: float = 0.0
    held_since: float = 0.0
    between_s: float = 0.0
    updates: "asyncio.Queue[TokensOf | Failed | Note]" = field(default_factory=asyncio.Queue)

    @property
    def request(self) -> str:
        """The name its reader gave it."""
        return self.generate.request

    @property
    def wire_name(self) -> str:
        """Its name at the pipeline that has it: an earlier attempt's tokens are not its own."""
        return self.request if self.attempt <= 1 else f"{self.request}~{self.attempt}"

    @property
    def num_tokens(self) -> int:
        """Tokens of its prompt and those delivered."""
        return len(self.generate.token_ids) + len(self.delivered)

    @property
    def num_left(self) -> int:
        """The most tokens that may still come."""
        return self.generate.max_tokens - len(self.delivered)

    @property
    def num_queued_tokens(self) -> int:
        """Prompt tokens that its pipeline may still have to compute."""
        return 0 if self.delivered else len(self.generate.token_ids)

    def next_attempt(self, pipeline: str, ref: Ref, hand_off: tuple[Taker, ...] = ()) -> Generate:
        """Give it to a pipeline: what that is to be told."""
        self.pipeline, self.ref = pipeline, ref
        self.takers, self.may_be_early = (), False
        self.may_go_to(hand_off)
        self.attempt += 1
        return msgspec.structs.replace(
            self.generate,
            request=self.wire_name,
            token_ids=self.generate.token_ids + tuple(self.delivered),
            num_prompt_tokens=len(self.generate.token_ids),
            hand_off=hand_off,
        )

    def may_go_to(self, takers: tuple[Taker, ...]) -> None:
        """Its pipeline is told that it may go on at one of these."""
        if takers:
            self.takers = tuple(taker.ref for taker in takers)
            self.may_be_early = True

    def note_loss(self, reason: str) -> None:
        """Something of what served it is gone, and it is to go on."""
        self.lost_to = self.lost_to or reason
        self.num_fruitless += 1

    def accept(self, update: TokensOf, now: float) -> bool:
        """Hand on what is new in an update; False if tokens before it are missing."""
        num_delivered = len(self.delivered)
        if update.position > num_delivered:
            return False
        fresh = update.token_ids[num_delivered - update.position :]
        if fresh or update.finish_reason is not None:
            self._hand_on(fresh, update, now)
        elif update.logprobs:
            # Of the prompt: they are no token, so that a request which only ever gives them ends.
            told = TokensOf(self.request, num_delivered, (), None, update.logprobs)
            self.updates.put_nowait(told)
        return True

    def _hand_on(self, fresh: tuple[int, ...], update: TokensOf, now: float) -> None:
        if self.lost_to:
            gap_ms = (now - self.last_token_at) * 1000
            self.updates.put_nowait(Note(f"recovered {self.lost_to} gap_ms={gap_ms:.0f}"))
            self.num_recoveries += 1
        if self.may_be_early and len(self.delivered) == 1:
            self.between_s = now - self.last_token_at
        self.lost_to, self.num_fruitless, self.last_token_at = "", 0, now
        position = len(self.delivered)
        self.delivered.extend(fresh)
        reason, logprobs = update.finish_reason, update.logprobs
        num_cached = update.num_cached if not position else 0
        told = TokensOf(self.request, position, fresh, reason, logprobs, num_cached)
        self.updates.put_nowait(told)

    def leave(self) -> None:
        """No pipeline has it any more."""
        self.pipeline, self.ref, self.goes_on_at = "", None, ""
        self.takers, self.may_be_early = (), False
        self.early.clear()

    def keep_early(self, update: TokensOf) -> bool:
        """Keep what came before the tokens in front of it; False if these will not come.

        A request that is handed off has two who send, so that the second's may be sooner here.
        """
        is_kept = self.may_be_early and len(self.early) < MAX_EARLY
        if is_kept:
            self.early.append(update)
        return is_kept

    def take_early(self) -> list[TokensOf]:
        """What was kept, in order of position."""
        found = sorted(self.early, key=lambda update: update.position)
        self.early.clear()
        return found

    def fail(self, kind: str, reason: str) -> None:
        """End it with an error."""
        self.updates.put_nowait(Failed(kind, reason))
