"""What requests look like: how long prompts and answers are, and how often requests come.

The one idea: lengths are kept as a sample of pairs, since prompt and answer go together; means and
quantiles are read off it. Published statistics give the pairs where no trace is at hand.
"""

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from math import ceil, log, sqrt

import numpy as np

MAX_PAIRS = 4096
MAX_TOKENS = 10**8
"""Of a prompt or an answer; what is longer is a mistake."""
_SYNTHETIC_PAIRS = 2048


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """Lengths of requests and their rate.

    Attributes:
        name: what it is called in reports.
        prompts: tokens of each sampled request's prompt.
        outputs: tokens of its answer.
        rate: requests a second; None where as many come as can be served.
    """

    name: str
    prompts: tuple[int, ...]
    outputs: tuple[int, ...]
    rate: float | None = None
    _means: tuple[float, float, float, float] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not self.prompts or len(self.prompts) != len(self.outputs):
            raise ValueError(
                f"workload {self.name!r}: expected as many prompts as outputs and one or more, got "
                f"{len(self.prompts)} and {len(self.outputs)}"
            )
        lengths = (*self.prompts, *self.outputs)
        if min(lengths) < 1 or max(lengths) > MAX_TOKENS:
            raise ValueError(
                f"workload {self.name!r}: expected lengths from 1 to {MAX_TOKENS} tokens, got "
                f"{min(lengths)} to {max(lengths)}"
            )
        if self.rate is not None and not 0 < self.rate < float("inf"):
            raise ValueError(f"workload {self.name!r}: expected a rate above 0, got {self.rate}")
        object.__setattr__(self, "_means", _means(self.prompts, self.outputs))

    @property
    def mean_prompt(self) -> float:
        """Tokens of a prompt."""
        return self._means[0]

    @property
    def mean_output(self) -> float:
        """Tokens of an answer."""
        return self._means[1]

    @property
    def mean_context(self) -> float:
        """Tokens that a sequence has in the KV cache while it decodes, as a decode step sees it.

        A longer answer is seen by more steps, so lengths count by the steps they take.
        """
        return self._means[2]

    @property
    def mean_prompt_pairs(self) -> float:
        """Positions that all of a prompt's tokens together attend to."""
        return self._means[3]


def _means(prompts: Sequence[int], outputs: Sequence[int]) -> tuple[float, float, float, float]:
    """Prompt, output, context and prompt pairs; computed once, since plans ask for them often."""
    count, steps = len(prompts), sum(outputs)
    pairs = zip(prompts, outputs, strict=True)
    context = sum(out * (prompt + out / 2) for prompt, out in pairs) / steps
    attended = sum(prompt * (prompt + 1) / 2 for prompt in prompts) / count
    return sum(prompts) / count, steps / count, context, attended


def fixed(prompt: int, output: int, rate: float | None = None) -> Workload:
    """Requests that are all alike."""
    return Workload(name=f"{prompt}:{output}", prompts=(prompt,), outputs=(output,), rate=rate)


def mixed(parts: Sequence[tuple[float, Workload]], rate: float | None = None) -> Workload:
    """Requests of several workloads by their shares, which need not add up to 1."""
    total = sum(share for share, _ in parts)
    prompts: list[int] = []
    outputs: list[int] = []
    for share, part in parts:
        count = ceil(share / total * _SYNTHETIC_PAIRS)
        picked = [(i * len(part.prompts)) // count for i in range(count)] if share > 0 else []
        prompts += [part.prompts[i] for i in picked]
        outputs += [part.outputs[i] for i in picked]
    name = " + ".join(part.name for share, part in parts if share > 0)
    return Workload(name=name, prompts=tuple(prompts), outputs=tuple(outputs), rate=rate)


@dataclass(frozen=True, slots=True, kw_only=True)
class Statistics:
    """What is published of a trace: mean and median lengths, and the rate, in tokens and 1/s."""

    prompt_mean: float
    prompt_median: float
    output_mean: float
    output_median: float
    rate: float


PUBLISHED = {
    "conversation": Statistics(
        prompt_mean=1155, prompt_median=1020, output_mean=211, output_median=129, rate=5.530
    ),
    "code": Statistics(
        prompt_mean=2048, prompt_median=1469, output_mean=27.9, output_median=13, rate=2.567
    ),
}
"""Of the Azure LLM inference traces (Patel et al., Splitwise, ISCA 2024), from the data."""


def synthetic(name: str, rate: float | None = None, seed: int = 0) -> Workload:
    """Requests with a published trace's means and medians, log-normal, cut at 1 and 16 times mean.

    Raises:
        ValueError: nothing is published of that name.
    """
    if name not in PUBLISHED:
        raise ValueError(f"workload: expected one of {', '.join(PUBLISHED)}, got {name!r}")
    known = PUBLISHED[name]
    rng = np.random.default_rng(seed)
    prompts = _log_normal(rng, known.prompt_mean, known.prompt_median)
    outputs = _log_normal(rng, known.output_mean, known.output_median)
    return Workload(name=name, prompts=prompts, outputs=outputs, rate=rate)


def log_normal(
    mean_prompt: float, mean_output: float, spread: float, max_len: int, seed: int = 0
) -> Workload:
    """Requests as `runtime.simulate` makes them: log-normal lengths, cut to what the model takes.

    Args:
        mean_prompt: tokens of a prompt, before they are cut.
        mean_output: tokens of an answer, likewise.
        spread: standard deviation of the lengths' logarithms.
        max_len: tokens of prompt and answer together.
        seed: of all chance.
    """
    rng = np.random.default_rng(seed)

    def drawn(mean: float) -> np.ndarray:
        lengths = rng.lognormal(log(mean) - spread**2 / 2, spread, _SYNTHETIC_PAIRS)
        rounded: np.ndarray = np.maximum(1, np.rint(lengths)).astype(np.int64)
        return rounded

    prompts = np.minimum(drawn(mean_prompt), max_len - 1)
    outputs = np.minimum(drawn(mean_output), max_len - prompts)
    return Workload(
        name=f"{mean_prompt:g}:{mean_output:g} log-normal",
        prompts=tuple(int(length) for length in prompts),
        outputs=tuple(int(length) for length in outputs),
    )


def from_trace(name: str, lines: Iterable[str], rate: float | None = None) -> Workload:
    """Requests of a trace in the Azure form: TIMESTAMP, ContextTokens, GeneratedTokens.

    The rate is the trace's own unless one is given. At most `MAX_PAIRS` pairs are kept, evenly.

    Raises:
        ValueError: a column is missing, or a line has no numbers or such as cannot be; says which.
    """
    rows = csv.DictReader(lines)
    wanted = {"TIMESTAMP", "ContextTokens", "GeneratedTokens"}
    pairs: list[tuple[int, int]] = []
    times: list[datetime] = []
    try:
        if not wanted <= set(rows.fieldnames or ()):
            got = ", ".join(map(str, rows.fieldnames or ()))[:80] or "none"
            raise ValueError(f"trace {name}: expected the columns {sorted(wanted)}, got {got}")
        for row in rows:
            pairs.append((_length(row["ContextTokens"]), _length(row["GeneratedTokens"])))
            # a zone would not help: only what lies between two times counts
            times.append(datetime.fromisoformat(row["TIMESTAMP"][:26]).replace(tzinfo=None))
    except csv.Error as error:
        raise ValueError(f"trace {name}, line {rows.line_num}: not CSV: {error}") from None
    except (TypeError, ValueError) as error:
        if not rows.line_num or str(error).startswith("trace"):
            raise
        raise ValueError(f"trace {name}, line {rows.line_num}: {error}") from None
    if not pairs:
        raise ValueError(f"trace {name}: expected one or more requests below its header, got none")
    elapsed = (max(times) - min(times)).total_seconds()
    rate = rate or (len(times) / elapsed if elapsed > 0 else None)
    kept = pairs[:: max(1, -(-len(pairs) // MAX_PAIRS))]
    return Workload(
        name=name,
        prompts=tuple(max(1, prompt) for prompt, _ in kept),
        outputs=tuple(max(1, output) for _, output in kept),
        rate=rate,
    )


def _length(text: str | None) -> int:
    """A number of tokens out of a trace; 0 is let through, for answers that were cut off."""
    if text is None or not text.strip().isascii() or not text.strip().isdigit():
        raise ValueError(f"expected a number of tokens, got {text!r:.40}")
    if len(text) > 10 or int(text) > MAX_TOKENS:
        raise ValueError(f"expected at most {MAX_TOKENS} tokens, got {text!r:.40}")
    return int(text)


def _log_normal(rng: np.random.Generator, mean: float, median: float) -> tuple[int, ...]:
    """Lengths whose logarithm is normal: the mean exceeds the median by exp(sigma^2 / 2)."""
    sigma = sqrt(2 * log(mean / median))
    drawn = np.clip(rng.lognormal(log(median), sigma, _SYNTHETIC_PAIRS), 1, 16 * mean)
    return tuple(int(length) for length in drawn * (mean / drawn.mean()) + 0.5)
