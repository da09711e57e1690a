"""Policies that pick a pipeline for a request, among pipelines that are not alike.

The one idea: time a request before it is sent. Prefill and decode times of each pipeline are fitted
to a light profile of it, and a request goes where its prompt, what queues before it, its answer
and the wait for KV room add up to the least. Round robin, random and shortest queue stand beside
it, with the same signature, for comparison.

Source: arXiv 2504.15303, which dispatches by fitted capacity and KV use; its formulas are not
public, so the prediction here is our own.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from scipy.optimize import nnls

from scheduling.errors import Infeasible
from scheduling.routing import PipelineLoad


class RoutingPolicy(Protocol):
    """Picks a pipeline; None if there is none to choose from."""

    def __call__(self, loads: Sequence[PipelineLoad], *, num_prompt_tokens: int) -> str | None:
        """Choose for one request, which is then counted in the next loads."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchTimes:
    """Fitted seconds of a pipeline's batches.

    prefill = `prefill[0]` + `prefill[1]` x tokens + `prefill[2]` x sum of squared lengths
    decode step = `decode[0]` + `decode[1]` x batch + `decode[2]` x tokens of context

    Attributes:
        prefill: its coefficients, none below 0.
        decode: its coefficients, none below 0.
        relative_error: the mean, over both profiles, of |fitted - measured| / measured.
    """

    prefill: tuple[float, float, float]
    decode: tuple[float, float, float]
    relative_error: float = 0.0

    def prefill_s(self, num_tokens: float, sum_squares: float) -> float:
        """Seconds to read prompts."""
        return self.prefill[0] + self.prefill[1] * num_tokens + self.prefill[2] * sum_squares

    def decode_s(self, batch: float, num_context: float) -> float:
        """Seconds of one decode step."""
        return self.decode[0] + self.decode[1] * batch + self.decode[2] * num_context


def fit_batch_times(
    prefills: Sequence[tuple[float, float, float]], decodes: Sequence[tuple[float, float, float]]
) -> BatchTimes:
    """Fit a light profile by least squares of the relative error, with no coefficient below 0.

    Args:
        prefills: rows of tokens, sum of squared lengths, seconds.
        decodes: rows of batch, tokens of context, seconds.

    Raises:
        Infeasible: fewer than three rows, or a time that is not above 0.
    """
    prefill, prefill_errors = _fit("prefill", prefills)
    decode, decode_errors = _fit("decode", decodes)
    errors = np.concatenate([prefill_errors, decode_errors])
    return BatchTimes(prefill=prefill, decode=decode, relative_error=float(errors.mean()))


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineFit:
    """What a prediction needs to know of a pipeline, beside its load.

    Attributes:
        times: fitted.
        kv_tokens: tokens whose KV fits in it.
    """

    times: BatchTimes
    kv_tokens: int


class PredictedCompletion:
    """The pipeline that is predicted to finish the request first; ties go to the lesser id."""

    def __init__(
        self,
        fits: Mapping[str, PipelineFit],
        *,
        usual_prompt_tokens: float,
        usual_output_tokens: float,
    ) -> None:
        """Take the fits, and the lengths that requests usually have."""
        self._fits = dict(fits)
        self._prompt = usual_prompt_tokens
        self._output = usual_output_tokens

    def __call__(self, loads: Sequence[PipelineLoad], *, num_prompt_tokens: int) -> str | None:
        """Choose for one request.

        Raises:
            Infeasible: a pipeline has no fit, or no pipeline has KV for the prompt even when empty.
        """
        for load in loads:
            if load.pipeline not in self._fits:
                raise Infeasible(
                    f"pipeline {load.pipeline!r}: expected a fit, got those of "
                    f"{sorted(self._fits)}; profile it first"
                )
        able = [load for load in loads if self._fits[load.pipeline].kv_tokens >= num_prompt_tokens]
        if loads and not able:
            raise Infeasible(
                f"prompt of {num_prompt_tokens} tokens: no pipeline has KV for it, the largest has "
                f"{max(self._fits[load.pipeline].kv_tokens for load in loads)} tokens"
            )
        if not able:
            return None
        return min((self.predict_s(load, num_prompt_tokens), load.pipeline) for load in able)[1]

    def predict_s(self, load: PipelineLoad, num_prompt_tokens: int) -> float:
        """Seconds until a pipeline would have finished the request."""
        fit = self._fits[load.pipeline]
        times = fit.times
        queued = load.num_queued_tokens / self._prompt
        prefill_s = (queued + 1) * times.prefill[0]
        prefill_s += times.prefill[1] * (load.num_queued_tokens + num_prompt_tokens)
        prefill_s += times.prefill[2] * (queued * self._prompt**2 + num_prompt_tokens**2)
        used = self._used_tokens(load, fit)
        batch = min(load.num_running + 1.0, fit.kv_tokens / (self._prompt + self._output))
        step_s = times.decode_s(max(1.0, batch), min(used + num_prompt_tokens, fit.kv_tokens))
        answer_s = self._output * step_s
        needed = used + load.num_queued_tokens + num_prompt_tokens + self._output
        # All KV in use turns over once in the time of an answer.
        waits = max(0.0, needed - fit.kv_tokens) / fit.kv_tokens
        return prefill_s + answer_s * (1 + waits)

    def _used_tokens(self, load: PipelineLoad, fit: PipelineFit) -> float:
        if load.num_free_tokens is not None:
            return max(0.0, fit.kv_tokens - load.num_free_tokens)
        return min(fit.kv_tokens, load.num_running * (self._prompt + self._output / 2))


class RoundRobin:
    """One pipeline after another, in the order of their ids."""

    def __init__(self) -> None:
        """Begin before the first."""
        self._last = ""

    def __call__(self, loads: Sequence[PipelineLoad], *, num_prompt_tokens: int) -> str | None:
        """The next id after the last, or the first."""
        ids = sorted(load.pipeline for load in loads)
        if not ids:
            return None
        self._last = next((name for name in ids if name > self._last), ids[0])
        return self._last


class RandomChoice:
    """Any pipeline, by an index that is drawn elsewhere."""

    def __init__(self, draw: Callable[[int], int]) -> None:
        """Take what draws an index below a count."""
        self._draw = draw

    def __call__(self, loads: Sequence[PipelineLoad], *, num_prompt_tokens: int) -> str | None:
        """Whichever is drawn."""
        ids = sorted(load.pipeline for load in loads)
        return ids[self._draw(len(ids))] if ids else None


class ShortestQueue:
    """The pipeline with the fewest sequences, then the fewest queued tokens."""

    def __call__(self, loads: Sequence[PipelineLoad], *, num_prompt_tokens: int) -> str | None:
        """The least of all; ties go to the lesser id."""
        keys = [(load.num_running, load.num_queued_tokens, load.pipeline) for load in loads]
        return min(keys)[2] if keys else None


def _fit(
    what: str, rows: Sequence[tuple[float, float, float]]
) -> tuple[tuple[float, float, float], np.ndarray]:
    table = np.array(rows, dtype=float).reshape(-1, 3)
    seconds = table[:, 2]
    if len(table) < 3 or np.any(seconds <= 0):
        raise Infeasible(
            f"{what} profile: expected 3 or more rows with times above 0, got {len(table)} rows; "
            "measure more batches"
        )
    columns = np.column_stack([np.ones(len(table)), table[:, :2]])
    scale = np.maximum(columns.max(axis=0), 1e-12)
    found, _ = nnls(columns / scale / seconds[:, np.newaxis], np.ones(len(table)))
    coefficients = found / scale
    errors = np.abs(columns @ coefficients - seconds) / seconds
    return (float(coefficients[0]), float(coefficients[1]), float(coefficients[2])), errors
