"""What a plan is to be good at, and what it must keep to."""

from dataclasses import dataclass
from typing import Literal

Measure = Literal["throughput", "cost", "slo"]
MEASURES: tuple[Measure, ...] = ("throughput", "cost", "slo")


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """The measure of a plan and its constraints.

    Attributes:
        measure: "throughput" is generated tokens a second; "cost" is generated tokens a dollar,
            once the workload's rate is served; "slo" is generated tokens a second of requests that
            keep both latencies.
        budget_per_hour: dollars an hour that the used nodes may cost; None is no bound.
        ttft_s: seconds to the first token that a request may take ("slo").
        tpot_s: seconds a token that a request may take after it ("slo").
    """

    measure: Measure = "throughput"
    budget_per_hour: float | None = None
    ttft_s: float | None = None
    tpot_s: float | None = None

    def __post_init__(self) -> None:
        if self.measure not in MEASURES:
            raise ValueError(f"goal: expected one of {', '.join(MEASURES)}, got {self.measure!r}")
        if (self.measure == "slo") != (self.ttft_s is not None or self.tpot_s is not None):
            raise ValueError(
                f"goal {self.measure!r}: ttft and tpot belong to 'slo', which needs one of them"
            )
        for name in ("budget_per_hour", "ttft_s", "tpot_s"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise ValueError(f"goal: expected {name} of more than 0, got {value}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How requests are batched, and which shapes of stage may be used.

    Attributes:
        max_tp: devices that one stage may be spread over, inside a node.
        max_running: sequences that a pipeline runs at once, at most.
        max_step_tokens: tokens in one step, at most.
        max_model_len: prompt and answer of one request, at most; its KV cache must fit.
        block_tokens: tokens in a KV block.
        memory_fraction: what weights and KV may take of a device's memory.
        recovery_s: seconds that a pipeline is out when a node is lost without notice.
        disaggregate: whether pipelines may serve prefill or decode alone.
        kv_transport_ratio: bytes that a KV entry takes on the wire for each that it has; 0.25 where
            it is sent as 4 bits of 16.
    """

    max_tp: int = 1
    max_running: int = 256
    max_step_tokens: int = 2048
    max_model_len: int = 4096
    block_tokens: int = 16
    memory_fraction: float = 0.9
    recovery_s: float = 60.0
    disaggregate: bool = False
    kv_transport_ratio: float = 1.0

    def __post_init__(self) -> None:
        for name in ("max_tp", "max_running", "max_step_tokens", "max_model_len", "block_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"limits: expected {name} of 1 or more, got {getattr(self, name)}")
        for name in ("memory_fraction", "kv_transport_ratio"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(
                    f"limits: expected {name} above 0, up to 1, got {getattr(self, name)}"
                )
        if self.recovery_s < 0:
            raise ValueError(f"limits: expected recovery_s of 0 or more, got {self.recovery_s}")
