"""One choice of an answer: from a prompt's tokens to pieces of text, a reason and counts."""

import random
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from runtime.gateway.backend import Backend, FinishReason, GenerationRequest, TokenStream
from runtime.gateway.errors import ApiError
from runtime.gateway.prompts import Tokenizer
from runtime.gateway.stops import StopScanner

MAX_SEED = (1 << 63) - 1


@dataclass(frozen=True, slots=True)
class Piece:
    """Text that has become certain; the last piece of a choice carries the reason."""

    text: str
    finish_reason: FinishReason | None


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
    request_id: str,
    default_max_tokens: int | None,
    model: ModelFacts,
    rng: random.Random,
) -> GenerationRequest:
    """Bound a request by the model's context and fill in what was left open.

    Raises:
        ApiError: 400, where prompt and answer cannot fit or the parameters contradict each other.
    """
    name = "max_completion_tokens" if "max_completion_tokens" in parameters else "max_tokens"
    asked = parameters.get(name, default_max_tokens)
    room = model.max_len - len(prompt)
    if room < 1 or (asked is not None and name in parameters and asked > room):
        raise _too_long(model, len(prompt), asked)
    max_tokens = room if asked is None else min(asked, room)
    min_tokens = parameters.get("min_tokens", 0)
    if min_tokens > max_tokens:
        raise ApiError(
            400,
            f"min_tokens: expected at most {name} ({max_tokens}), got {min_tokens}",
            param="min_tokens",
        )
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


def _too_long(model: ModelFacts, num_prompt_tokens: int, asked: int | None) -> ApiError:
    wanted = f" and {asked} for the answer" if asked else ""
    return ApiError(
        400,
        f"This model's maximum context length is {model.max_len} tokens, but the prompt has "
        f"{num_prompt_tokens} tokens{wanted}; shorten the prompt or ask for fewer tokens.",
        param="messages" if asked is None else "max_tokens",
        code="context_length_exceeded",
    )


class Choice:
    """One sequence at work for a client."""

    def __init__(
        self, request: GenerationRequest, stops: tuple[str, ...], tokenizer: Tokenizer
    ) -> None:
        self.request = request
        self.num_completion_tokens = 0
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
        """The text as it becomes certain; the last piece, and only it, has a reason."""
        assert self._stream is not None
        async with aclosing(self._stream) as stream:
            async for batch in stream:
                self.num_completion_tokens += len(batch.token_ids)
                text = self._scanner.push(self._detokenizer.push(batch.token_ids))
                if self._scanner.is_stopped:
                    yield Piece(text, "stop")
                    return
                if batch.finish_reason is not None:
                    yield self._last_piece(text, batch.finish_reason)
                    return
                if text:
                    yield Piece(text, None)

    def _last_piece(self, text: str, reason: FinishReason) -> Piece:
        text += self._scanner.push(self._detokenizer.flush())
        return Piece(text + self._scanner.flush(), "stop" if self._scanner.is_stopped else reason)
