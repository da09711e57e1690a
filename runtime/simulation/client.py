"""What sends the requests and takes their tokens, as a gateway with very fast clients would.

The one idea: a stream's updates are noted as they come, by the queue they are put in, so that a
token costs no wake-up. Every stream is checked for holes and repetitions; what it should have said
is for `quick_hash` to know, of those that are to be checked.
"""

import asyncio
from dataclasses import dataclass

import numpy as np

from actors.messages import Generate, TokensOf
from actors.router import NoPipeline, QueueIsFull, RouterActor
from actors.stream import Failed, Note, Stream
from runtime.simulation.load import Arrival

TOKEN_SEED = 0x5EED


@dataclass(slots=True, kw_only=True)
class Outcome:
    """One request from its arrival to its end; times are the loop's.

    Attributes:
        number: which one it is, by arrival.
        arrival: when it came, and its lengths.
        sent_at: when it was sent.
        first_at: when its first token came, if one did.
        last_at: when its newest token came.
        longest_gap_s: the longest time between two tokens.
        num_recoveries: how often it went on after a loss.
        ended: `stop` or `length`, or the kind of its failure; empty while it runs.
        num_tokens: how many came.
        is_whole: whether every token came at its position.
        is_right: whether they are the right ones; None if that was not looked at.
    """

    number: int
    arrival: Arrival
    sent_at: float = 0.0
    first_at: float | None = None
    last_at: float = 0.0
    longest_gap_s: float = 0.0
    num_recoveries: int = 0
    ended: str = ""
    num_tokens: int = 0
    is_whole: bool = True
    is_right: bool | None = None

    @property
    def is_done(self) -> bool:
        """Whether it came to its proper end."""
        return self.ended in ("stop", "length")


class Meter(asyncio.Queue["TokensOf | Failed | Note"]):
    """A stream's updates, each of which is noted the moment it comes and then forgotten."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__()
        self._outcome = outcome
        self._loop = asyncio.get_running_loop()
        self.tokens: list[int] = []
        self.ended = asyncio.Event()

    def put_nowait(self, item: "TokensOf | Failed | Note") -> None:
        """Note an update."""
        outcome = self._outcome
        if isinstance(item, TokensOf):
            self._on_tokens(item)
        elif isinstance(item, Note):
            outcome.num_recoveries += 1
        else:
            outcome.ended = item.kind
            self.ended.set()

    def _on_tokens(self, update: TokensOf) -> None:
        outcome, now = self._outcome, self._loop.time()
        outcome.is_whole = outcome.is_whole and update.position == len(self.tokens)
        if outcome.first_at is None:
            outcome.first_at = now
        else:
            outcome.longest_gap_s = max(outcome.longest_gap_s, now - outcome.last_at)
        outcome.last_at = now
        self.tokens.extend(update.token_ids)
        if update.finish_reason is not None:
            outcome.ended = update.finish_reason
            self.ended.set()


def prompt_of(seed: int, number: int, length: int, vocab: int) -> list[int]:
    """The tokens of a request's prompt, the same whenever they are asked for."""
    chance = np.random.default_rng((TOKEN_SEED, seed & 0xFFFFFFFF, number))
    tokens: list[int] = chance.integers(0, vocab, length).tolist()
    return tokens


async def send(
    router: RouterActor, outcome: Outcome, prompt: list[int], token_timeout_s: float
) -> list[int]:
    """Send one request and note what becomes of it; returns its tokens."""
    loop = asyncio.get_running_loop()
    outcome.sent_at = outcome.last_at = loop.time()
    try:
        stream = router.open(_generate(outcome, prompt))
    except QueueIsFull:
        outcome.ended = "queue_full"
        return []
    except NoPipeline:
        outcome.ended = "no_pipeline"
        return []
    stream.updates = meter = Meter(outcome)
    await _wait_end(router, stream, meter, outcome, token_timeout_s)
    outcome.num_tokens = len(meter.tokens)
    return meter.tokens


async def _wait_end(
    router: RouterActor, stream: Stream, meter: Meter, outcome: Outcome, timeout_s: float
) -> None:
    """Wait for a stream's end, or until nothing came for a while."""
    while not outcome.ended:
        heard_at = outcome.last_at
        try:
            async with asyncio.timeout_at(heard_at + timeout_s):
                await meter.ended.wait()
        except TimeoutError:
            if outcome.last_at == heard_at:
                router.close(stream)
                outcome.ended = "timeout"


def _generate(outcome: Outcome, prompt: list[int]) -> Generate:
    return Generate(
        request=f"r{outcome.number}",
        token_ids=tuple(prompt),
        max_tokens=outcome.arrival.num_output,
        min_tokens=0,
        stop_token_ids=(),
        temperature=0.0,
        top_p=1.0,
        top_k=0,
        min_p=0.0,
        seed=outcome.number,
    )
