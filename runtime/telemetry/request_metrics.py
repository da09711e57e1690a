"""Metrics of requests, as the gateway sees them: what clients waited for and got.

Names, labels and buckets are vLLM's, under our own prefix, so that boards and alerts made for vLLM
need only that changed. A request here is one sequence: a prompt of a completion, one of `n`.

Source: vLLM, docs/usage/metrics (metric names and histogram buckets).
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, Counter, Histogram

from runtime.telemetry.token_history import TokenHistory

TTFT_BUCKETS_S = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75,
    1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0, 160.0, 640.0, 2560.0,
)  # fmt: skip
TPOT_BUCKETS_S = (
    0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75,
    1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0,
)  # fmt: skip
LATENCY_BUCKETS_S = (
    0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0,
    120.0, 240.0, 480.0, 960.0, 1920.0, 7680.0,
)  # fmt: skip
REASONS = ("stop", "length", "abort", "error")
TARGETS = ("ttft", "tpot", "all")
MODEL = "model_name"
MAX_NOTES = 32
"""News of one request that are kept."""


@dataclass(slots=True)
class Totals:
    """The counts that a page shows, kept beside the metrics, which are costly to read one by one.

    `first_token_s` is the sum of the times to the first token, `refused` counts who was not taken.
    """

    ended: dict[str, int] = field(default_factory=lambda: dict.fromkeys(REASONS, 0))
    refused: int = 0
    prompt_tokens: int = 0
    generated_tokens: int = 0
    num_first_tokens: int = 0
    first_token_s: float = 0.0


class RequestMetrics:
    """The metrics of one gateway's requests, in a registry of their own."""

    def __init__(self, registry: CollectorRegistry, model: str, clock: Callable[[], float]) -> None:
        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"remuda:{name}", text, (MODEL, *labels), registry=registry)

        def histogram(name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
            made = Histogram(f"remuda:{name}", text, (MODEL,), registry=registry, buckets=buckets)
            return made.labels(model)

        self.clock = clock
        self.history = TokenHistory(clock)
        self.totals = Totals()
        self._model = model
        prompt = counter("prompt_tokens", "Prompt tokens of requests that began.")
        generated = counter("generation_tokens", "Tokens generated.")
        self.prompt_tokens, self.generation_tokens = prompt.labels(model), generated.labels(model)
        self._success = counter("request_success", "Requests that ended.", "finished_reason")
        self._refused = counter("admission_rejections", "Requests that were refused.", "reason")
        self._kept = counter(
            "slo_requests", "Requests with latency targets that ended.", "target", "met"
        )
        for reason in REASONS:  # present from the beginning, so that rates are right
            self._success.labels(model, reason)
        for target in TARGETS:
            for met in ("true", "false"):
                self._kept.labels(model, target, met)
        self.time_to_first_token = histogram(
            "time_to_first_token_seconds", "From submission to the first token.", TTFT_BUCKETS_S
        )
        self.time_per_output_token = histogram(
            "time_per_output_token_seconds",
            "From first to last token, over the tokens after the first, of a whole request.",
            TPOT_BUCKETS_S,
        )
        self.latency = histogram(
            "e2e_request_latency_seconds", "From submission to the end.", LATENCY_BUCKETS_S
        )
        self.queue_time = histogram(
            "request_queue_time_seconds", "Waited in the gateway for a turn.", LATENCY_BUCKETS_S
        )

    def begin(self, num_prompt_tokens: int) -> "RequestClock":
        """A request that was taken."""
        return RequestClock(self, num_prompt_tokens, self.clock())

    def ended(self, reason: str) -> None:
        """Count the end of a request."""
        self._success.labels(self._model, reason).inc()
        self.totals.ended[reason] += 1

    def kept(self, target: str, *, is_met: bool) -> None:
        """Count a latency target, one of `TARGETS`, that was met or missed."""
        self._kept.labels(self._model, target, str(is_met).lower()).inc()

    def refused(self, reason: str) -> None:
        """Count a request that was not taken; the reason is one word of ours."""
        self._refused.labels(self._model, reason).inc()
        self.totals.refused += 1


@dataclass(slots=True)
class RequestClock:
    """Times of one request; every method may come once, but for `token_batch` and `noted`."""

    metrics: RequestMetrics
    num_prompt_tokens: int
    began: float
    first_token_at: float | None = None
    last_token_at: float = 0.0
    num_tokens: int = 0
    dispatched_at: float | None = None
    ended_at: float = 0.0
    reason: str = ""
    notes: list[tuple[float, str]] = field(default_factory=list)

    @property
    def ttft_s(self) -> float | None:
        """Seconds to the first token, if it came."""
        return None if self.first_token_at is None else self.first_token_at - self.began

    @property
    def tpot_s(self) -> float | None:
        """Mean seconds from each token to the next, if there were two."""
        if self.first_token_at is None or self.num_tokens < 2:
            return None
        return (self.last_token_at - self.first_token_at) / (self.num_tokens - 1)

    def dispatched(self) -> None:
        """Its turn has come."""
        self.dispatched_at = self.metrics.clock()
        self.metrics.queue_time.observe(self.dispatched_at - self.began)
        self.metrics.prompt_tokens.inc(self.num_prompt_tokens)
        self.metrics.totals.prompt_tokens += self.num_prompt_tokens

    def token_batch(self, num_tokens: int) -> None:
        """Tokens came."""
        if not num_tokens:
            return
        now = self.metrics.clock()
        if self.first_token_at is None:
            self.first_token_at = now
            self.metrics.time_to_first_token.observe(now - self.began)
            self.metrics.totals.num_first_tokens += 1
            self.metrics.totals.first_token_s += now - self.began
        self.last_token_at = now
        self.num_tokens += num_tokens
        self.metrics.generation_tokens.inc(num_tokens)
        self.metrics.totals.generated_tokens += num_tokens
        self.metrics.history.add(num_tokens)

    def noted(self, text: str) -> None:
        """Something happened to it that is no token."""
        if len(self.notes) < MAX_NOTES:
            self.notes.append((self.metrics.clock(), text))

    def ended(self, reason: str) -> None:
        """It is over: `stop` and `length` are whole, `abort` and `error` are not."""
        self.ended_at, self.reason = self.metrics.clock(), reason
        self.metrics.ended(reason)
        if reason not in ("stop", "length"):
            return
        self.metrics.latency.observe(self.metrics.clock() - self.began)
        if (tpot_s := self.tpot_s) is not None:
            self.metrics.time_per_output_token.observe(tpot_s)
