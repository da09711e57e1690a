"""What a stage costs on each kind of group, for every size of step at once.

The one idea: a pipeline in steady state runs two sorts of steps. In all of them `b` sequences
decode; some hold a prompt's chunk besides, as many as prompts come, `b * prompt / output` tokens a
step. The mean of their times is what counts, which is more than the time of a mean step: the one
waits for memory and the other for arithmetic. One grid of sizes and one table a group then say all
that a forecast needs; a stage's time is a line in its number of layers.

Arrays are over `Q` operating points: a size of step and how many of them are in flight.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from scheduling.goal import Limits
from scheduling.hardware import DeviceKind
from scheduling.placement import Phase
from scheduling.roofline import (
    LinkRate,
    ModelShape,
    StageTime,
    StepWork,
    all_reduce_time_s,
    tensor_parallel,
)
from scheduling.workload import Workload

Array = npt.NDArray[np.float64]

GRID_SIZE = 40
_SMALLEST_CHUNK = 64.0


@dataclass(frozen=True, slots=True)
class GroupKind:
    """What decides the speed of a group: its devices' kind, how many, and what links them."""

    kind: str
    tp: int
    link: LinkRate


@dataclass(frozen=True, slots=True)
class GroupCost:
    """A stage's cost on a kind of group; arrays are over the grid of step sizes.

    Attributes:
        layer_s: seconds a layer takes of a step, as the mean over those with and without a chunk.
        plain_layer_s: seconds a layer takes of a step without a chunk.
        plain_head_s: seconds the head takes of that.
        chunk_layer_s: seconds a layer takes of a step that also holds a prompt's chunk.
        chunk_head_s: seconds the head takes of that.
        step_s: seconds of any step beyond layers and head.
        memory_bytes: for weights and KV together.
    """

    layer_s: Array
    plain_layer_s: Array
    plain_head_s: Array
    chunk_layer_s: Array
    chunk_head_s: Array
    step_s: float
    memory_bytes: float


@dataclass(frozen=True, slots=True)
class Grid:
    """The sizes of step that are looked at in a phase.

    Attributes:
        sequences: sequences that decode in the step; zeros in the prefill phase.
        tokens: tokens in the step.
        requests: requests that the step completes its share of: what the rate counts.
        chunk: tokens of a prompt in a step that holds one.
        work: a step of each size that holds no prompt's chunk.
        chunk_work: one that does.
        chunk_part: part of the steps that hold one.
    """

    sequences: Array
    tokens: Array
    requests: Array
    chunk: Array
    work: tuple[StepWork, ...]
    chunk_work: tuple[StepWork, ...]
    chunk_part: Array


class CostTable:
    """Costs of all kinds of groups for a model and a load, computed once each."""

    def __init__(
        self,
        shape: ModelShape,
        workload: Workload,
        limits: Limits,
        kinds: Callable[[str], DeviceKind],
    ) -> None:
        self.shape, self.workload, self.limits = shape, workload, limits
        self._kinds = kinds
        self._grids: dict[Phase, Grid] = {}
        self._costs: dict[tuple[GroupKind, Phase], GroupCost] = {}
        dtype = shape.dtype_bytes
        self.token_bytes = float(shape.token_bytes)
        self.kv_bytes_per_token = float(shape.kv_bytes_per_token)
        self.ends_bytes = float(shape.head_parameters * dtype)
        widest = max(shape.intermediate, shape.num_heads * shape.head_dim)
        self.workspace_bytes = float(limits.max_step_tokens * (2 * shape.hidden + widest) * dtype)
        context = min(workload.mean_context + limits.block_tokens / 2, limits.max_model_len)
        self.kv_tokens_each = shape.kv_positions(context)
        self.kv_tokens_least = shape.kv_positions(limits.max_model_len)

    def grid(self, phase: Phase) -> Grid:
        """The sizes of step of a phase."""
        if phase not in self._grids:
            self._grids[phase] = self._prefill() if phase == "prefill" else self._decode(phase)
        return self._grids[phase]

    def cost(self, group: GroupKind, phase: Phase) -> GroupCost:
        """What a stage costs on a kind of group."""
        found = self._costs.get((group, phase))
        if found is None:
            found = self._costs[group, phase] = self._compute(group, self.grid(phase))
        return found

    def in_flight(self, num_stages: int) -> tuple[int, ...]:
        """How many steps may be in flight: one for each stage, as the batcher keeps them."""
        return (num_stages,)

    def max_layers(self, memory_bytes: float, ends_bytes: float, kv_tokens: Array) -> Array:
        """Layers that fit a memory beside embedding or head, for each number of KV tokens."""
        room = memory_bytes - ends_bytes - self.workspace_bytes
        needed = self.shape.layer_weight_bytes + self.kv_bytes_per_token * kv_tokens
        most: Array = np.floor(np.maximum(room, 0.0) / needed)
        return most

    def _compute(self, group: GroupKind, grid: Grid) -> GroupCost:
        kind = self._kinds(group.kind)
        device = tensor_parallel(kind.rates, group.tp)
        time_s = StageTime(device, self.shape, (0, self.shape.num_layers))

        def layer(work: StepWork) -> float:
            told = all_reduce_time_s(group.link, group.tp, work.num_tokens * self.token_bytes)
            return time_s.of_layer(work) + 2 * told

        plain_layer_s = np.array([layer(work) for work in grid.work])
        plain_head_s = np.array([time_s.of_head(work) for work in grid.work])
        chunk_layer_s = np.array([layer(work) for work in grid.chunk_work])
        chunk_head_s = np.array([time_s.of_head(work) for work in grid.chunk_work])
        part = grid.chunk_part
        return GroupCost(
            layer_s=_mean(part, plain_layer_s, chunk_layer_s),
            plain_layer_s=plain_layer_s,
            plain_head_s=plain_head_s,
            chunk_layer_s=chunk_layer_s,
            chunk_head_s=chunk_head_s,
            step_s=device.step_overhead_s,
            memory_bytes=device.memory_bytes * self.limits.memory_fraction,
        )

    def _decode(self, phase: Phase) -> Grid:
        """Steps of decoding sequences, with their share of prompts where the phase is both."""
        load = self.workload
        ratio = load.mean_prompt / load.mean_output if phase == "both" else 0.0
        most = self.limits.max_step_tokens / (1 + ratio)
        largest = min(most, self.limits.max_running)
        sizes = np.geomspace(min(1.0, largest), largest, GRID_SIZE)
        chunk = np.minimum(
            np.maximum(self.limits.max_step_tokens - sizes, 1.0), max(load.mean_prompt, 1.0)
        )
        chunk = np.maximum(chunk, sizes * ratio)  # several prompts at once where many come
        work = tuple(self._step(size, 0.0) for size in sizes)
        chunk_work = tuple(
            self._step(size, c if phase == "both" else 0.0)
            for size, c in zip(sizes, chunk, strict=True)
        )
        return Grid(
            sequences=sizes,
            tokens=sizes * (1 + ratio),
            requests=sizes / load.mean_output,
            chunk=chunk,
            work=work,
            chunk_work=chunk_work,
            chunk_part=sizes * ratio / chunk,
        )

    def _prefill(self) -> Grid:
        """Steps of prompts alone."""
        largest = float(self.limits.max_step_tokens)
        sizes = np.geomspace(min(_SMALLEST_CHUNK, largest), largest, GRID_SIZE)
        work = tuple(self._step(0.0, size) for size in sizes)
        return Grid(
            sequences=np.zeros(GRID_SIZE),
            tokens=sizes,
            requests=sizes / self.workload.mean_prompt,
            chunk=sizes,
            work=work,
            chunk_work=work,
            chunk_part=np.ones(GRID_SIZE),
        )

    def _step(self, sequences: float, prompt_tokens: float) -> StepWork:
        """An average step: some sequences decode, and some tokens of prompts are computed."""
        load, shape = self.workload, self.shape
        each_pairs = shape.kv_positions(load.mean_prompt_pairs / load.mean_prompt)
        context = sequences * shape.kv_positions(load.mean_context)
        return StepWork(
            num_tokens=sequences + prompt_tokens,
            num_pairs=context + prompt_tokens * each_pairs,
            num_context=context,
            num_drawn=sequences + prompt_tokens / load.mean_prompt,
        )


def _mean(part: Array, without: Array, chunked: Array) -> Array:
    """The mean over steps of which a part hold a chunk."""
    mean: Array = (1 - part) * without + part * chunked
    return mean
