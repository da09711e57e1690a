"""Which pipeline a request goes to.

The one idea: the one that is predicted to finish it first. What lies before a request is counted
in prompt tokens, running sequences as the prompt tokens they weigh, and divided by the pipeline's
rate. The router never knows why a pipeline is fast.
"""

from collections.abc import Sequence
from dataclasses import dataclass

_TOKENS_PER_RUNNING = 64
"""What a running sequence weighs: the decode steps it still takes, as prompt tokens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineLoad:
    """What a pipeline has before it.

    Attributes:
        pipeline: its id.
        num_queued_tokens: prompt tokens it has not computed yet.
        num_running: sequences that run or wait there.
        num_free_tokens: tokens for which KV blocks are free, if known.
        tokens_per_s: prompt tokens it computes in a second, if known.
    """

    pipeline: str
    num_queued_tokens: int
    num_running: int
    num_free_tokens: int | None = None
    tokens_per_s: float | None = None


def choose_pipeline(loads: Sequence[PipelineLoad], *, num_prompt_tokens: int) -> str | None:
    """The pipeline with the least predicted completion; None if there is none to choose from.

    Those without free KV blocks for the prompt come after those that have them or do not say.
    Pipelines of unknown rate count as the mean of the known ones. Ties go to the lesser id.
    """
    if not loads:
        return None
    rates = [load.tokens_per_s for load in loads if load.tokens_per_s]
    usual = sum(rates) / len(rates) if rates else 1.0

    def order(load: PipelineLoad) -> tuple[bool, float, str]:
        work = load.num_queued_tokens + _TOKENS_PER_RUNNING * load.num_running + num_prompt_tokens
        full = load.num_free_tokens is not None and load.num_free_tokens < num_prompt_tokens
        return full, work / (load.tokens_per_s or usual), load.pipeline

    return min(loads, key=order).pipeline
