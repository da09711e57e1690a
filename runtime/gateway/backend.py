"""The seam between the HTTP edge and the cluster: what the gateway asks of whatever makes tokens.

The gateway knows requests, token ids and text; a backend knows pipelines. The real backend is the
router actor that lives in the gateway's process; tests use a scripted one.
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from models.sampling_extras import SamplingExtras
from models.token_logprobs import TokenLogprobs

FinishReason = Literal["stop", "length"]

RETRY_NOT_READY_S = 5.0
"""When to come back to a service that has lost a part of itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationRequest:
    """One sequence to continue.

    `max_tokens` is final: the gateway has bounded it by the model's context. `stop_token_ids` end
    the sequence and are not delivered (the end-of-sequence tokens among them, unless they are
    ignored); none of them is drawn before `min_tokens` are out. `extras` shape the drawing, and ask
    for logprobs.
    """

    request_id: str
    token_ids: tuple[int, ...]
    max_tokens: int
    min_tokens: int = 0
    stop_token_ids: tuple[int, ...] = ()
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int = 0
    extras: SamplingExtras = field(default_factory=SamplingExtras)


@dataclass(frozen=True, slots=True)
class TokenBatch:
    """Tokens as they come; the last batch carries the reason and may be empty of tokens.

    A batch with a `note` says what happened to the request, and is empty of tokens. `logprobs` are
    of tokens in it, or of the prompt; the same may come twice. The first with tokens says how many
    of the prompt's were `num_cached`: not computed for this request.
    """

    token_ids: tuple[int, ...]
    finish_reason: FinishReason | None
    note: str = ""
    logprobs: tuple[TokenLogprobs, ...] = ()
    num_cached: int = 0


class GenerationError(Exception):
    """A request that was accepted cannot go on; `kind` is a short machine-readable word."""

    def __init__(self, message: str, *, kind: str = "internal_error") -> None:
        super().__init__(message)
        self.kind = kind


class Overloaded(Exception):
    """The queue is full; try again after `retry_after_s` seconds."""

    def __init__(self, message: str, *, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class NotReady(Exception):
    """No pipeline serves the model now; the text says what is missing."""

    def __init__(self, message: str, *, retry_after_s: float = RETRY_NOT_READY_S) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class TokenStream(Protocol):
    """One request's tokens; it ends after a batch with a finish reason, or raises."""

    def __aiter__(self) -> AsyncIterator[TokenBatch]: ...

    async def __anext__(self) -> TokenBatch: ...

    async def aclose(self) -> None:
        """Cancel the request if it still runs, and free what it holds."""
        ...


class Backend(Protocol):
    """Makes tokens for the gateway."""

    def submit(self, request: GenerationRequest) -> TokenStream:
        """Queue a request and stream its tokens.

        Raises:
            Overloaded: at once, if no more requests are taken now.
            NotReady: at once, if no pipeline is up.
            GenerationError: from the iterator, if the request cannot go on.
        """
        ...

    def not_ready_reason(self) -> str | None:
        """Why `/health` must answer 503, or None when every stage is ready."""
        ...

    def plan(self) -> dict[str, Any]:
        """What of `status` is known without asking anybody: epoch, nodes, pipelines, stages."""
        ...

    async def status(self) -> dict[str, Any]:
        """The JSON of `/admin/status`: `epoch`, `pipelines`, request counts."""
        ...
