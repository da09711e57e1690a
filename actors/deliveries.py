"""What pipelines send of requests: tokens, failures, and word that a request changed hands.

The one idea: a pipeline's failure is not its requests'. Prompt and delivered tokens are all that a
request is, so another pipeline, or the next life of this one, goes on from where its reader is;
only what keeps failing without a token in between may be what kills, and ends with an error.
"""

import logging
from collections.abc import Callable

from actors.kernel.actor import Context
from actors.kernel.ref import Ref
from actors.messages import OUT_OF_REACH, Recovered, RequestFailed, StreamsMoved, TokensOf
from actors.reach import Reach
from actors.request_places import RequestPlaces
from actors.stream import MAX_FRUITLESS_RECOVERIES, Stream
from transport.codec import Message

_log = logging.getLogger(__name__)

EARLY_S = 1.0
"""How long tokens of whoever goes on with a request are kept for those of who began it."""
ENDS_WITH = frozenset({"stage_lost", "pipeline_lost"})
"""Failures that are the pipeline's and not the request's: it ends."""


class TokensMissing(Message, frozen=True, tag="tokens_missing"):
    """Did the tokens at a position come? The router's note to itself, never on the wire."""

    request: str
    attempt: int
    position: int


class Deliveries:
    """Takes what comes; `on_end` is called with each request that ends in order."""

    context: Context
    """The router's, set when it starts."""

    def __init__(
        self, places: RequestPlaces, reach: Reach, on_end: Callable[[Stream], None]
    ) -> None:
        self._places, self._reach, self._on_end = places, reach, on_end
        self.num_recoveries = 0

    # --- tokens

    def on_tokens(self, update: TokensOf) -> None:
        """Some tokens of one request."""
        stream = self._places.at_pipeline(update.request)
        if stream is None:
            return
        if len(stream.delivered) > 1:  # it should be there by now: it stays where it is
            stream.goes_on_at = ""
        num_recoveries = stream.num_recoveries
        is_whole = stream.accept(update, self.context.loop_time())
        self._places.recount(stream)
        self.num_recoveries += stream.num_recoveries - num_recoveries
        if not is_whole:
            self._on_hole(stream, update)
        elif update.finish_reason is not None:
            self._on_end(stream)
            self._places.forget(stream)
            self._places.send_held()
        else:
            for early in stream.take_early():
                self.on_tokens(early)

    def on_tokens_missing(self, note: TokensMissing) -> None:
        """Those in front of what came early should be here by now."""
        stream = self._places.named(note.request)
        if stream is None or (stream.attempt, len(stream.delivered)) != (
            note.attempt,
            note.position,
        ):
            return
        if stream.early:
            self._lose_tokens(stream, min(early.position for early in stream.early))

    def _on_hole(self, stream: Stream, update: TokensOf) -> None:
        """Tokens in front of these are missing: late, if others send them, or lost."""
        if stream.keep_early(update):
            missing = TokensMissing(stream.request, stream.attempt, len(stream.delivered))
            self.context.schedule(EARLY_S, missing)
        else:
            self._lose_tokens(stream, update.position)

    def _lose_tokens(self, stream: Stream, upto: int) -> None:
        hole = f"tokens {len(stream.delivered)} to {upto} never came"
        _log.warning("tokens lost pipeline=%s reason=%s", stream.pipeline, hole)
        self._places.cancel(stream)
        self._go_on(stream, "tokens_lost", hole)

    # --- what happened to requests

    def on_failed(self, failed: RequestFailed) -> None:
        """A pipeline does not go on with a request."""
        stream = self._places.at_pipeline(failed.request)
        if stream is None:
            return
        if failed.kind in ENDS_WITH:
            self._reach.lose(stream.ref)  # nothing new for it
            self._go_on(stream, failed.kind, failed.reason)
        elif failed.kind == OUT_OF_REACH:
            self._go_on(stream, failed.kind, failed.reason)
        elif failed.kind == "queue_full" and stream.attempt > 1:  # it was let in once
            self._places.leave(stream)
            self._places.hold(stream)
        else:
            self._places.fail(stream, failed.kind, failed.reason)

    def on_recovered(self, news: Recovered) -> None:
        """A pipeline mended itself under its requests: nothing was lost, but they paused."""
        for name in news.requests:
            if (stream := self._places.at_pipeline(name)) is None:
                continue
            stream.note_loss(news.what)
            if stream.num_fruitless > MAX_FRUITLESS_RECOVERIES:
                self._places.cancel(stream)
                reason = f"{news.what} was lost; {_again(stream)}"
                self._places.fail(stream, "stage_lost", reason)

    def on_moved(self, news: StreamsMoved) -> None:
        """Requests changed hands, as they are; their tokens come from there now.

        Who was not read any more when that happened is not known there to be unread.
        """
        pipeline = self._reach.name_of(news.to)
        handed_off = []
        for name in news.requests:
            if (stream := self._places.at_pipeline(name)) is None:
                self._places.cancel_at(news.to, name)
                continue
            if stream.takers:
                handed_off.append(stream)
            stream.ref, stream.goes_on_at, stream.takers = news.to, "", ()
            stream.pipeline = pipeline or stream.pipeline
            self._places.recount(stream)
        self._reach.want(news.to)
        # Phases may have been flipped while they were on their way.
        self._places.hand_on(handed_off)

    def on_actor_lost(self, ref: Ref, why: str) -> None:
        """A pipeline's actor is gone, or out of reach: its requests go on elsewhere."""
        for stream in self._places.at_actor(ref):
            reason = f"pipeline {stream.pipeline} was lost ({why})"
            self._go_on(stream, "pipeline_lost", reason)

    def _go_on(self, stream: Stream, kind: str, reason: str) -> None:
        """Have another pipeline, or the next life of this one, continue a request."""
        for taker in stream.takers:  # one may have it already, and we were not told
            self._places.cancel_at(taker, stream.wire_name)
        self._places.leave(stream)
        if stream.num_fruitless >= MAX_FRUITLESS_RECOVERIES:
            self._places.fail(stream, kind, f"{reason}; {_again(stream)}")
            return
        stream.note_loss(kind)
        self._places.hold(stream)
        self._places.send_held()


def _again(stream: Stream) -> str:
    return f"it was started again {stream.num_fruitless} times without a token"
