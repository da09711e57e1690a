"""How busy pipelines and stages are, in plain values: what metrics are written from."""

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineFacts:
    """One pipeline that answered; counts since it opened.

    `round_s` is in seconds over all steps, None where that answer did not come. `num_handed_off`
    were given to another pipeline with their first token, in `hand_off_s` seconds and with
    `hand_off_bytes` of KV in all; `num_stayed` found no room there, `num_failed_hand_offs` broke.
    `hand_off_saved_bytes` more would have travelled without an encoding, and
    `hand_off_present_bytes` if `num_present_blocks` had not been there already. Of requests given
    KV blocks for the first time, `num_prefix_queries` are the tokens and `num_prefix_hits` those
    whose entries were found.
    """

    pipeline: str
    num_running: int
    num_waiting: int
    num_blocks: int
    num_free_blocks: int
    num_steps: int
    num_preemptions: int
    round_s: float | None = None
    num_handed_off: int = 0
    num_stayed: int = 0
    num_failed_hand_offs: int = 0
    hand_off_bytes: int = 0
    hand_off_s: float = 0.0
    hand_off_saved_bytes: int = 0
    num_present_blocks: int = 0
    hand_off_present_bytes: int = 0
    num_prefix_queries: int = 0
    num_prefix_hits: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class StageFacts:
    """One stage that answered; counts since its worker began, times in seconds."""

    pipeline: str
    stage: int
    num_steps: int
    num_stale_steps: int
    num_queued: int
    busy_s: float
    idle_s: float
    resident_s: float
    sent_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacedStage:
    """One stage of the plan; bytes of its worker."""

    pipeline: str
    stage: int
    node: str
    device: str
    kv_blocks: int
    weight_bytes: int
    resident_bytes: int
    is_ready: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceFacts:
    """All that is known of a service at one time."""

    epoch: int = 0
    is_ready: bool = False
    num_nodes: int = 0
    num_recoveries: int = 0
    pipelines: tuple[PipelineFacts, ...] = ()
    stages: tuple[StageFacts, ...] = ()
    placed: tuple[PlacedStage, ...] = ()


class FactSource(Protocol):
    """Knows how busy a service is."""

    async def facts(self) -> ServiceFacts:
        """What is known now, within a few seconds; who does not answer is left out."""
        ...
