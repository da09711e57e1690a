"""How long a pipeline's batches take, as a few fitted coefficients.

The one idea: prefill and decode times are fitted to a light profile, so that they are told in six
numbers and a request can be timed before it is sent. It never knows where the profile came from.

Source: arXiv 2504.15303, which dispatches by fitted capacity and KV use; its formulas are not
public, so the terms here are our own.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import nnls

from scheduling.errors import Infeasible

Coefficients = tuple[float, float, float]


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

    prefill: Coefficients
    decode: Coefficients
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


def mean_times(times: Sequence[BatchTimes]) -> BatchTimes:
    """The mean of each coefficient; of none there is no mean, and `ValueError` says so."""
    if not times:
        raise ValueError("mean of batch times: expected one or more, got none")
    prefill = np.mean([each.prefill for each in times], axis=0).tolist()
    decode = np.mean([each.decode for each in times], axis=0).tolist()
    return BatchTimes(prefill=tuple(prefill), decode=tuple(decode))


def _fit(what: str, rows: Sequence[tuple[float, float, float]]) -> tuple[Coefficients, np.ndarray]:
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
