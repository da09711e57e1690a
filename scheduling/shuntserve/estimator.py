"""ShuntServe's estimator, exactly: the throughput it predicts for a pipeline of machines.

The one idea: this is a published formula with its own floors and simplifications, kept to the last
digit so that placements can be compared on its terms; `scheduling.roofline` is what we believe.
It over-predicts its authors' own measurements 1.4 to 2.5 times, so its figures rank, and no more.

Source: ShuntServe, arXiv 2606.18600, the estimator and its memory model.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from scheduling.errors import Infeasible
from scheduling.roofline import ModelShape
from scheduling.shuntserve.catalogue import InstanceType
from scheduling.shuntserve.roofline import MicrobatchTimes, RequestLengths

MEMORY_SHARE = 0.85
"""The part of a GPU's memory that weights, activations and KV may take."""
BLOCK_TOKENS = 16
"""Tokens of a KV block, as the estimator counts them."""

Microbatches = tuple[tuple[int, int], ...]
"""Sizes of microbatches, in sequences, and how many there are of each."""


class Stage(NamedTuple):
    """Consecutive layers on one machine, tensor-parallel over all of its GPUs."""

    instance: InstanceType
    num_layers: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """What the estimator predicts for a pipeline that serves one full batch after another.

    Attributes:
        requests_per_s: throughput.
        latency_s: time of the whole batch, `prefill_s + decode_s`.
        num_sequences: the batch, which the stage with the least KV room limits.
        num_kv_blocks: blocks of `BLOCK_TOKENS` tokens that the batch takes.
    """

    requests_per_s: float
    latency_s: float
    prefill_s: float
    decode_s: float
    num_sequences: int
    num_kv_blocks: int


class Estimator:
    """Predicts pipelines of one model at fixed lengths; remembers the roofline of each batch.

    Example:
        >>> from scheduling.shuntserve.catalogue import G5_12XLARGE, G6_12XLARGE, LLAMA_31_70B
        >>> stages = [Stage(G5_12XLARGE, 26), Stage(G5_12XLARGE, 26), Stage(G6_12XLARGE, 28)]
        >>> round(Estimator(LLAMA_31_70B).estimate(stages).requests_per_s, 9)
        0.835318698
    """

    def __init__(self, shape: ModelShape, lengths: RequestLengths | None = None) -> None:
        """Fix the model and the lengths.

        Args:
            shape: the model's.
            lengths: prompt, output and longest prompt batch; the paper's when None.

        Raises:
            Infeasible: a prompt is longer than the longest prompt batch.
        """
        self.shape = shape
        self.lengths = lengths or RequestLengths()
        self.times = MicrobatchTimes(shape, self.lengths)
        self.max_prefill_batch = self.lengths.max_batch_tokens // self.lengths.prompt_tokens
        if self.max_prefill_batch < 1:
            raise Infeasible(
                f"prompts of {self.lengths.prompt_tokens} tokens: expected at most "
                f"{self.lengths.max_batch_tokens}, the longest prompt batch; raise it"
            )

    def estimate(self, stages: Sequence[Stage], *, complete: bool = True) -> Estimate:
        """Predict one pipeline.

        Args:
            stages: in order.
            complete: whether the last of them ends the model, and so carries the output matrix.

        Raises:
            Infeasible: a stage's weights leave no room for one sequence, or there is no stage.
        """
        rooms = [
            self.max_sequences(stage, first=i == 0, last=complete and i == len(stages) - 1)
            for i, stage in enumerate(stages)
        ]
        if not rooms or min(rooms) < 1:
            raise Infeasible(
                f"pipeline {[(s.instance.name, s.num_layers) for s in stages]}: expected room for "
                f"1 sequence or more on every stage, got {rooms}; give the stages at 0 fewer layers"
            )
        batch = min(rooms)
        sizes = self.microbatches(batch, len(stages))
        ends = [complete and i == len(stages) - 1 for i in range(len(stages))]
        prefills, decodes = (
            [
                self.stage_s(stage, sizes[decode], decode=bool(decode), last=last)
                for stage, last in zip(stages, ends, strict=True)
            ]
            for decode in (0, 1)
        )
        return self._combine(batch, prefills, decodes)

    def max_sequences(self, stage: Stage, *, first: bool, last: bool) -> int:
        """Sequences whose KV fits beside the weights of a stage; 0 or less if none does."""
        free, layer, sequence = self.memory(stage.instance, first=first, last=last)
        return math.floor((free - layer * stage.num_layers) / (sequence * stage.num_layers))

    def memory(self, instance: InstanceType, *, first: bool, last: bool) -> tuple[float, int, int]:
        """What layers and KV may take, what a layer weighs, and a sequence's KV in one layer.

        Units: bytes.
        """
        shape = self.shape
        free = instance.gpu_memory_mb * 1e6 * instance.num_gpus * MEMORY_SHARE
        free -= shape.dtype_bytes * shape.head_parameters * (first + last)
        free -= 2 * self.lengths.max_batch_tokens * shape.intermediate * shape.dtype_bytes
        norms = 2 * shape.hidden
        tokens = self.lengths.prompt_tokens + self.lengths.output_tokens
        return (
            free,
            shape.dtype_bytes * (shape.layer_parameters + norms),
            tokens * shape.kv_bytes_per_token,
        )

    def microbatches(self, batch: int, num_stages: int) -> tuple[Microbatches, Microbatches]:
        """A batch's prefill and decode microbatches; empty ones are left out."""
        full = batch // (self.max_prefill_batch * num_stages) * num_stages
        rest = _even_split(batch - full * self.max_prefill_batch, num_stages)
        whole = ((self.max_prefill_batch, full),) if full else ()
        return whole + rest, _even_split(batch, num_stages)

    def stage_s(self, stage: Stage, sizes: Microbatches, *, decode: bool, last: bool) -> float:
        """Seconds that a stage takes for these microbatches."""
        instance, count = stage
        layer_s, end_s = self.times.layer_s, self.times.end_s
        seconds = 0.0
        for size, number in sizes:
            layers_s = count * layer_s(instance, size, decode=decode)
            seconds += number * (layers_s + end_s(instance, size, decode=decode, last=last))
        return seconds

    def _combine(self, batch: int, prefills: list[float], decodes: list[float]) -> Estimate:
        depth = min(batch, len(prefills))
        prefill_s = max(prefills) * (len(prefills) // depth)
        decode_s = max(decodes) * (len(prefills) // depth)
        fill_s = self.fill_s(batch, depth, prefill_s=max(prefills), decode_s=max(decodes))
        if prefill_s > decode_s:
            prefill_s += fill_s
        else:
            decode_s += fill_s
        latency_s = prefill_s + decode_s
        tokens = batch * (self.lengths.prompt_tokens + self.lengths.output_tokens)
        return Estimate(
            requests_per_s=batch / latency_s,
            latency_s=latency_s,
            prefill_s=prefill_s,
            decode_s=decode_s,
            num_sequences=batch,
            num_kv_blocks=tokens // BLOCK_TOKENS,
        )

    def fill_s(self, batch: int, depth: int, *, prefill_s: float, decode_s: float) -> float:
        """What a pipeline of `depth` stages waits until its last stage has work."""
        if depth < 2:
            return 0.0
        first_token_s = prefill_s / max(batch // self.max_prefill_batch, depth)
        per_token_s = decode_s / depth / self.lengths.output_tokens
        return (depth - 1) * max(first_token_s, per_token_s)


def _even_split(total: int, parts: int) -> Microbatches:
    least, larger = divmod(total, parts)
    split = ((least, parts - larger), (least + 1, larger))
    return tuple((size, number) for size, number in split if size and number)
