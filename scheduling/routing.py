"""Which pipeline a request goes to.

The one idea: time a request before it is sent, and send it where all requests together are done
first. What queues before its prompt, the steps of its answer among the sequences that run, and the
wait for a slot or for KV room add up by the pipeline's fitted times. To go where one's own end is
nearest would fill the fast pipelines until they are no better than the slow ones; what a request
costs the others there counts as well. Pure; it never knows why a pipeline is fast.

Source: arXiv 2504.15303 (fitted capacity and KV use); the prediction is our own.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from scheduling.batch_times import BatchTimes, mean_times

_TOKENS_PER_RUNNING = 64
"""What a running sequence weighs where no times are known: its decode steps, as prompt tokens."""
_NEWEST_PART = 1 / 64
"""What the newest request weighs in the usual lengths."""


@dataclass(frozen=True, slots=True)
class UsualLengths:
    """Tokens that prompts and answers usually have."""

    prompt: float = 512.0
    output: float = 128.0

    def after(self, prompt: int, output: int) -> "UsualLengths":
        """What is usual once a request of these lengths has ended."""
        return UsualLengths(
            self.prompt + _NEWEST_PART * (max(1, prompt) - self.prompt),
            self.output + _NEWEST_PART * (max(1, output) - self.output),
        )


USUAL = UsualLengths()


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineFit:
    """What a prediction needs to know of a pipeline, beside its load.

    Attributes:
        times: of its batches, fitted.
        kv_tokens: tokens whose KV fits in it.
        max_running: sequences that it runs at once.
    """

    times: BatchTimes
    kv_tokens: int
    max_running: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineLoad:
    """What a pipeline has before it.

    Attributes:
        pipeline: its id.
        num_queued_tokens: prompt tokens it has not computed yet.
        num_running: sequences that run or wait there.
        num_resident_tokens: tokens of all these, whose KV it has or is to have.
        num_free_tokens: tokens for which KV blocks must be free, if that is asked for.
        fit: what is known of it, if anything.
        goes_on_at: the pipeline that decodes what it begins, if it only begins requests.
    """

    pipeline: str
    num_queued_tokens: int
    num_running: int
    num_resident_tokens: int = 0
    num_free_tokens: int | None = None
    fit: PipelineFit | None = None
    goes_on_at: "PipelineLoad | None" = None


class Choose(Protocol):
    """Picks a pipeline for one request; None if there is none to choose from."""

    def __call__(
        self,
        loads: Sequence[PipelineLoad],
        *,
        num_prompt_tokens: int,
        usual: UsualLengths = USUAL,
    ) -> str | None:
        """Choose among pipelines that have room; the request is counted in the next loads."""
        ...


def choose_pipeline(
    loads: Sequence[PipelineLoad], *, num_prompt_tokens: int, usual: UsualLengths = USUAL
) -> str | None:
    """The pipeline where the predicted completions of all rise least; None if there is none.

    Those without KV for the prompt come after the others. Pipelines without a fit count as the
    mean of those that have one; where none has, the least queued and running wins. Ties go to the
    lesser id.

    Complexity: O(P) for P pipelines.
    """
    if not loads:
        return None
    known = _with_usual_fit(loads)

    def order(load: PipelineLoad) -> tuple[bool, float, str]:
        is_full = load.num_free_tokens is not None and load.num_free_tokens < num_prompt_tokens
        if load.fit is None:
            work = load.num_queued_tokens + _TOKENS_PER_RUNNING * load.num_running
            return is_full, work, load.pipeline
        is_full = is_full or load.fit.kv_tokens < num_prompt_tokens
        return is_full, _marginal_s(load, load.fit, num_prompt_tokens, usual), load.pipeline

    return min(known, key=order).pipeline


def _marginal_s(
    load: PipelineLoad, fit: PipelineFit, num_prompt_tokens: int, usual: UsualLengths
) -> float:
    """Seconds that a request adds to the completions of all that are or come there.

    Those present are `N = rate x T(N)` (Little's law), with `T(N) = T(0) + b N` the prediction, so
    that one more request a second adds `dN/drate = T(N)^2 / T(0)`. Where all slots are taken the
    rate does not rise any more: there a turn of them counts as itself, squared, besides.
    """
    decodes = load.goes_on_at or load
    ratio = 0.0 if load.goes_on_at else usual.prompt / usual.output
    decode_fit = decodes.fit or fit
    now_s = predicted_s(load, fit, num_prompt_tokens, usual)
    idle_s = _prefill_s(0, fit, num_prompt_tokens, usual)
    idle_s += _answer_s(0, 0, decode_fit, num_prompt_tokens, usual, ratio)
    turns = max(1.0, (decodes.num_running + 1) / _slots(decode_fit, usual))
    return now_s * (now_s / idle_s) * turns**2 if idle_s else now_s


def predicted_s(
    load: PipelineLoad, fit: PipelineFit, num_prompt_tokens: int, usual: UsualLengths = USUAL
) -> float:
    """Seconds until a pipeline would have finished a request.

    Where another one decodes, its part counts by its own times, without prompts in its steps.
    """
    decodes = load.goes_on_at or load
    running, resident = decodes.num_running, decodes.num_resident_tokens
    ratio = 0.0 if load.goes_on_at else usual.prompt / usual.output
    prefill_s = _prefill_s(load.num_queued_tokens, fit, num_prompt_tokens, usual)
    return prefill_s + _answer_s(
        running, resident, decodes.fit or fit, num_prompt_tokens, usual, ratio
    )


def _prefill_s(
    num_queued: int, fit: PipelineFit, num_prompt_tokens: int, usual: UsualLengths
) -> float:
    """All that queues is read before the prompt."""
    squares = num_queued * usual.prompt + num_prompt_tokens**2
    return fit.times.prefill_s(num_queued + num_prompt_tokens, squares)


def _answer_s(
    num_running: int,
    num_resident: int,
    fit: PipelineFit,
    num_prompt_tokens: int,
    usual: UsualLengths,
    prompts_per_output: float,
) -> float:
    """The steps of the answer, and before them the wait for a slot or for KV room.

    While it decodes, as many requests come as go: steps hold their prompts too.
    """
    slots = _slots(fit, usual)
    batch = min(num_running + 1.0, slots)
    resident = num_resident + num_prompt_tokens
    step_s = fit.times.decode_s(batch, min(resident, fit.kv_tokens))
    step_s += fit.times.prefill[1] * batch * prompts_per_output
    # all slots, and all KV, turn over once in the time of an answer
    turns = max((num_running + 1) / slots, (resident + usual.output) / fit.kv_tokens)
    return usual.output * step_s * max(1.0, turns)


def _slots(fit: PipelineFit, usual: UsualLengths) -> float:
    """Sequences that run at once."""
    return max(1.0, min(fit.max_running, fit.kv_tokens / (usual.prompt + usual.output)))


def _with_usual_fit(loads: Sequence[PipelineLoad]) -> Sequence[PipelineLoad]:
    """The loads, those without a fit with the mean of the others', if there are any."""
    fits = [load.fit for load in loads if load.fit is not None]
    if not fits or len(fits) == len(loads):
        return loads
    count = len(fits)
    mean = PipelineFit(
        times=mean_times([fit.times for fit in fits]),
        kv_tokens=sum(fit.kv_tokens for fit in fits) // count,
        max_running=max(1, sum(fit.max_running for fit in fits) // count),
    )
    return [load if load.fit is not None else replace(load, fit=mean) for load in loads]
