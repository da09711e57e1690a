"""One choice of an answer: from a prompt's tokens to pieces of text, a reason and counts."""

import random
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Any

from runtime.gateway.backend import (
    Backend,
    FinishReason,
    GenerationError,
    GenerationRequest,
    TokenStream,
)
from runtime.gateway.errors import ApiError, refused
from runtime.gateway.stops import StopScanner
from runtime.gateway.tokenizing import Tokenizer


@dataclass(frozen=True, slots=True)
class Piece:
    """Text that has become certain; the last piece of a choice carries the reason.

    A piece with a `note` is no text, but news of the request.
    """

    text: str
    finish_reason: FinishReason | None
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """What requests are checked against."""

    name: str
    max_len: int
    eos_token_ids: tuple[int, ...]


def generation_request(
    prompt: tuple[int, ...],
    parameters: dict[str, Any],
    *,
    prompt_param: str,
    request_id: str,
    default_max_tokens: int | None,
    model: ModelFacts,
    rng: random.Random,
) -> GenerationRequest:
    """Bound a request by the model's context and fill in what was left open.

    Raises:
        ApiError: 400, where prompt and answer cannot fit or the parameters contradict each other.
    """
    max_tokens = _max_tokens(len(prompt), parameters, prompt_param, default_max_tokens, model)
    min_tokens = parameters.get("min_tokens", 0)
    if min_tokens > max_tokens:
        raise refused("min_tokens", f"at most {max_tokens}, which is max_tokens here", min_tokens)
    return GenerationRequest(
        request_id=request_id,
        token_ids=prompt,
        max_tokens=max_tokens,
        min_tokens=min_tokens,
        stop_token_ids=() if parameters.get("ignore_eos") else model.eos_token_ids,
        temperature=parameters.get("temperature", 1.0),
        top_p=parameters.get("top_p", 1.0),
        top_k=parameters.get("top_k", 0),
        min_p=parameters.get("min_p", 0.0),
        seed=parameters.get("seed", rng.getrandbits(63)),
    )


def _max_tokens(
    num_prompt_tokens: int,
    parameters: dict[str, Any],
    prompt_param: str,
    default: int | None,
    model: ModelFacts,
) -> int:
    """How long the answer may be; what was asked for fits or is refused, a default is cut."""
    asked = {n: parameters[n] for n in ("max_tokens", "max_completion_tokens") if n in parameters}
    if len(set(asked.values())) > 1:
        raise refused("max_tokens", "the same as max_completion_tokens", asked["max_tokens"])
    room = model.max_len - num_prompt_tokens
    if room < 1:
        raise _too_long(prompt_param, model, f"the prompt has {num_prompt_tokens}")
    for name, value in asked.items():
        if value > room:
            wanted = f"the prompt has {num_prompt_tokens} and {name} is {value}"
            raise _too_long(name, model, wanted)
        return int(value)
    return room if default is None else min(default, room)


def _too_long(param: str, model: ModelFacts, wanted: str) -> ApiError:
    message = f"{param}: the context is {model.max_len} tokens, but {wanted}"
    return ApiError(400, message, param=param, code="context_length_exceeded")


RECOVERED = "recovered"
"""The first word of a note that tells of a loss which the request outlived."""


class Choice:
    """One sequence at work for a client."""

    def __init__(
        self, request: GenerationRequest, stops: tuple[str, ...], tokenizer: Tokenizer
    ) -> None:
        self.request = request
        self.num_completion_tokens = 0
        self.num_recoveries = 0
        self._scanner = StopScanner(stops)
        self._detokenizer = tokenizer.detokenizer(request.token_ids)
        self._stream: TokenStream | None = None

    def submit(self, backend: Backend) -> None:
        """Queue the sequence; raises what `Backend.submit` does at once."""
        self._stream = backend.submit(self.request)

    async def aclose(self) -> None:
        """Cancel what is not finished."""
        if self._stream is not None:
            await self._stream.aclose()

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
            text = self._take(batch.token_ids)
            if self._scanner.is_stopped:
                yield Piece(text, "stop")
                return
            if batch.finish_reason is not None:
                yield self._last_piece(text, batch.finish_reason)
                return
            if text:
                yield Piece(text, None)
        raise GenerationError("the tokens ended without a reason", kind="tokens_lost")

    def _take(self, token_ids: Sequence[int]) -> str:
        """Text of some tokens; of what follows a stop string none is shown or counted."""
        certain = []
        for token_id in token_ids:
            if self._scanner.is_stopped:
                break
            self.num_completion_tokens += 1
            certain.append(self._scanner.push(self._detokenizer.push((token_id,))))
        return "".join(certain)

    def _last_piece(self, text: str, reason: FinishReason) -> Piece:
        text += self._scanner.push(self._detokenizer.flush())
        return Piece(text + self._scanner.flush(), "stop" if self._scanner.is_stopped else reason)
