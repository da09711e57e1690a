"""One choice of an answer: from tokens to pieces of text, calls, logprobs, a reason and counts."""

from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from models.token_logprobs import TokenLogprobs
from runtime.gateway.backend import (
    Backend,
    FinishReason,
    GenerationError,
    GenerationRequest,
    TokenBatch,
    TokenStream,
)
from runtime.gateway.call_readers import CallDelta, CallReader, Read
from runtime.gateway.stops import StopScanner
from runtime.gateway.tokenizing import Tokenizer

AnswerReason = FinishReason | Literal["tool_calls"]

RECOVERED = "recovered"
"""The first word of a note that tells of a loss which the request outlived."""


@dataclass(frozen=True, slots=True)
class Scored:
    """A token, where its text begins, and how likely it was; nobody says that of the very first."""

    token_id: int
    offset: int
    entry: TokenLogprobs | None


@dataclass(frozen=True, slots=True)
class Piece:
    """What has become certain of a choice; the last piece carries the reason.

    `scored` are the tokens since the last piece, where logprobs are to be shown. A piece with a
    `note` is no text, but news of the request.
    """

    text: str
    finish_reason: AnswerReason | None
    note: str = ""
    calls: tuple[CallDelta, ...] = ()
    scored: tuple[Scored, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """How a choice is to be shown.

    Attributes:
        stops: strings that end it.
        shows_stop: whether the one that did is part of the text.
        skips_special: whether special tokens have no text.
        echo: the prompt's text, where the answer is to begin with it.
        shows_logprobs: whether tokens are shown with their logprobs, an echo's as well.
        draws: whether a token is wanted at all; the backend draws one in any case.
        reader: makes a reader of calls, where there may be any.
        is_single: whether the first call ends the choice.
    """

    stops: tuple[str, ...] = ()
    shows_stop: bool = False
    skips_special: bool = True
    echo: str | None = None
    shows_logprobs: bool = False
    draws: bool = True
    reader: Callable[[], CallReader] | None = None
    is_single: bool = False


_PLAIN = Wishes()


class Choice:
    """One sequence at work for a client; `prompt_index` says of which prompt it is."""

    def __init__(
        self,
        request: GenerationRequest,
        tokenizer: Tokenizer,
        wishes: Wishes = _PLAIN,
        prompt_index: int = 0,
    ) -> None:
        self.request = request
        self.prompt_index = prompt_index
        self.num_completion_tokens = 0
        self.num_recoveries = 0
        self.num_cached = 0
        self.sum_logprobs = 0.0
        self._wishes = wishes
        self._tokenizer = tokenizer
        self._scanner = StopScanner(wishes.stops, shows_stop=wishes.shows_stop)
        self._reader = wishes.reader() if wishes.reader is not None else None
        self._has_calls = False
        self._detokenizer = tokenizer.detokenizer(
            request.token_ids, skip_special_tokens=wishes.skips_special
        )
        self._entries: dict[int, TokenLogprobs] = {}
        self._scored: list[Scored] = []
        self._prefix = wishes.echo or ""
        self._offset = len(self._prefix)
        self._is_begun = False
        self._stream: TokenStream | None = None

    def submit(self, backend: Backend) -> None:
        """Queue the sequence; raises what `Backend.submit` does at once."""
        self._stream = backend.submit(self.request)

    async def aclose(self) -> None:
        """Cancel what is not finished."""
        if self._stream is not None:
            await self._stream.aclose()

    @property
    def mean_logprob(self) -> float:
        """Of its tokens, by which the best of several is found."""
        return self.sum_logprobs / max(1, self.num_completion_tokens)

    def prompt_logprobs(self) -> list[TokenLogprobs | None]:
        """An entry for each token of the prompt, none for the first.

        Raises:
            GenerationError: not all of them came.
        """
        places = range(1, len(self.request.token_ids))
        return [None, *(self._entry(place) for place in places)]

    async def pieces(self) -> AsyncGenerator[Piece, None]:
        """The text as it becomes certain; the last piece, and only it, has a reason.

        Raises:
            GenerationError: the sequence cannot go on, or ends without a reason.
        """
        assert self._stream is not None
        async for batch in self._stream:
            if batch.note:
                self.num_recoveries += batch.note.startswith(RECOVERED)
                yield Piece("", None, batch.note)
                continue
            self.num_cached += batch.num_cached
            self._entries.update((entry.position, entry) for entry in batch.logprobs)
            if not batch.token_ids and batch.finish_reason is None:
                continue
            piece = self._piece(batch)
            if piece is not None:
                yield piece
            if piece is not None and piece.finish_reason is not None:
                return
        raise GenerationError("the tokens ended without a reason", kind="tokens_lost")

    def _piece(self, batch: TokenBatch) -> Piece | None:
        """What a batch makes certain; None if that is nothing."""
        prefix = "" if self._is_begun else self._begin()
        if not self._wishes.draws:
            return Piece(prefix, "length", scored=self._take_scored())
        text, reason = self._take(batch.token_ids), batch.finish_reason
        if not self._scanner.is_stopped and reason is not None:
            text += self._scanner.push(self._detokenizer.flush()) + self._scanner.flush()
        if self._scanner.is_stopped:
            reason = "stop"
        content, calls = self._read(text, is_last=reason is not None)
        answer_reason = self._answer_reason(reason)
        if not (prefix or content or calls or answer_reason):
            return None
        scored = self._take_scored()
        return Piece(prefix + content, answer_reason, calls=calls, scored=scored)

    def _begin(self) -> str:
        """What stands before the answer."""
        self._is_begun = True
        if self._wishes.echo is not None and self._wishes.shows_logprobs:
            self._score_prompt()
        return self._prefix

    def _score_prompt(self) -> None:
        detokenizer = self._tokenizer.detokenizer(())
        offset = 0
        for token, entry in zip(self.request.token_ids, self.prompt_logprobs(), strict=True):
            self._scored.append(Scored(token, offset, entry))
            offset += len(detokenizer.push((token,)))

    def _take(self, token_ids: Sequence[int]) -> str:
        """Text of some tokens; of what follows a stop string none is shown or counted."""
        certain = []
        for token_id in token_ids:
            if self._scanner.is_stopped:
                break
            self._score(token_id)
            self.num_completion_tokens += 1
            text = self._detokenizer.push((token_id,))
            self._offset += len(text)
            certain.append(self._scanner.push(text))
        return "".join(certain)

    def _score(self, token_id: int) -> None:
        if self.request.extras.num_logprobs < 0:
            return
        entry = self._entry(len(self.request.token_ids) + self.num_completion_tokens)
        self.sum_logprobs += entry.logprob
        if self._wishes.shows_logprobs:
            self._scored.append(Scored(token_id, self._offset, entry))

    def _entry(self, position: int) -> TokenLogprobs:
        entry = self._entries.get(position)
        if entry is None:
            raise GenerationError(
                f"the logprobs of token {position} never came", kind="tokens_lost"
            )
        return entry

    def _take_scored(self) -> tuple[Scored, ...]:
        scored, self._scored = tuple(self._scored), []
        return scored

    # --- calls

    def _read(self, text: str, *, is_last: bool) -> Read:
        if self._reader is None:
            return Read(text, ())
        content, calls = self._reader.push(text)
        if is_last:
            rest, more = self._reader.flush()
            content, calls = content + rest, calls + more
        self._has_calls = self._has_calls or bool(calls)
        return Read(content, calls)

    def _answer_reason(self, reason: FinishReason | None) -> AnswerReason | None:
        if self._wishes.is_single and self._reader is not None and self._reader.num_ended:
            return "tool_calls"
        return "tool_calls" if reason == "stop" and self._has_calls else reason
