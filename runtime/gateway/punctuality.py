"""Whether answers come in time: forecast before a request is let in, counted when it is over.

The one idea: a target is a promise that is kept or counted as broken. Each request with targets
ends in a metric that says which were met; one that asks for that is refused at once where the
forecast says that it would come too late, so that its client can go elsewhere.
"""

from dataclasses import dataclass, field

from runtime.gateway.backend import Overloaded
from runtime.gateway.targets import Targets
from runtime.telemetry.request_metrics import RequestClock, RequestMetrics
from scheduling.latency_forecast import LatencyForecast


class TooLate(Overloaded):
    """A target would be missed, and the request asks to be refused then."""


@dataclass(slots=True)
class Punctuality:
    """What is known of how long requests take, from those that were here.

    `num_unread_tokens` are prompt tokens of requests that have their turn and no token yet.
    """

    metrics: RequestMetrics
    forecast: LatencyForecast = field(default_factory=LatencyForecast)
    num_unread_tokens: int = 0

    def check(self, targets: Targets | None, num_tokens: int, num_before: int) -> None:
        """Let a request of so many tokens in, unless it would rather be refused than be late.

        Raises:
            TooLate: a target is forecast to be missed; it says by how much.
        """
        if targets is None or not targets.refuse:
            return
        told = self.forecast.next(self.num_unread_tokens + num_tokens, num_before)
        pairs = (("ttft", targets.ttft, told.ttft_s), ("tpot", targets.tpot, told.tpot_s))
        for name, target, expected_s in pairs:
            if target is not None and expected_s is not None and expected_s > target:
                message = f"slo: {name} of {target:g} s asked for, {expected_s:.3g} s forecast now"
                raise TooLate(message, retry_after_s=expected_s - target)

    def dispatched(self, num_tokens: int) -> "Reading":
        """A request has its turn, and its prompt is to be read."""
        self.num_unread_tokens += num_tokens
        return Reading(self, num_tokens, self.num_unread_tokens, self.metrics.clock())

    def ended(self, clock: RequestClock, targets: Targets | None, *, is_whole: bool) -> None:
        """A request that nobody gave up is over: learn from it, and count its targets."""
        tpot_s = clock.tpot_s
        if tpot_s is not None and is_whole:
            self.forecast.decoded(tpot_s)
        if targets is None:
            return
        met = {}
        if targets.ttft is not None:
            met["ttft"] = clock.ttft_s is not None and clock.ttft_s <= targets.ttft
        if targets.tpot is not None:
            met["tpot"] = is_whole and (tpot_s is None or tpot_s <= targets.tpot)
        for target, is_met in met.items():
            self.metrics.kept(target, is_met=is_met)
        if met:
            self.metrics.kept("all", is_met=all(met.values()))


@dataclass(slots=True)
class Reading:
    """A prompt that is being read, with all that stood before it; `over` once it is."""

    punctuality: Punctuality
    num_tokens: int
    num_tokens_up_to: int
    began: float
    _is_over: bool = False

    def over(self, *, with_token: bool) -> None:
        """The first token came, or the request went; what comes later changes nothing."""
        if self._is_over:
            return
        self._is_over = True
        self.punctuality.num_unread_tokens -= self.num_tokens
        if with_token:
            seconds = self.punctuality.metrics.clock() - self.began
            self.punctuality.forecast.prefilled(self.num_tokens_up_to, seconds)
