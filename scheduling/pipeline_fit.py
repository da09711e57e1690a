"""A pipeline's batch times from what its devices and links do, for whoever routes requests.

The one idea: the planner's roofline of every stage is evaluated on a light profile of batches, and
six coefficients are fitted to it. As many steps are in flight as there are stages, so a decode step
comes round after the way through all of them or the slowest stage's share, whichever is longer, and
prompts are read at the slowest stage's pace. It never knows a message or a clock.

Source: the cost model of `scheduling.roofline`; the profile's form is that of arXiv 2504.15303.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from scheduling.batch_times import BatchTimes, fit_batch_times
from scheduling.goal import Limits
from scheduling.link_rate import LinkRate, transfer_time_s
from scheduling.model_shape import ModelShape, StepWork
from scheduling.roofline import StageTime
from scheduling.split import StageDevice

_PROMPTS = (32, 256, 1024, 4096)
_NUM_PROMPTS = (1, 4, 16)
_BATCHES = (1, 4, 16, 64, 256)
_CONTEXTS = (128, 512, 2048)


@dataclass(frozen=True, slots=True)
class FittedStage:
    """Layers `[start, end)` on a device that does this for them."""

    device: StageDevice
    start: int
    end: int


def fit_stages(
    stages: Sequence[FittedStage], hops: Sequence[LinkRate], shape: ModelShape, limits: Limits
) -> BatchTimes:
    """The batch times of stages in a row, with a link between each two.

    Raises:
        ValueError: there is no stage, or not one link fewer than stages.
        Infeasible: a device does nothing in no time.

    Complexity: O(S) evaluations of the roofline for each of 27 batches.
    """
    if not stages or len(hops) != len(stages) - 1:
        raise ValueError(
            f"fit of a pipeline: expected one or more stages and one link fewer, got {len(stages)} "
            f"stages and {len(hops)} links"
        )
    row = _StageRow(stages, hops, shape, limits)
    sizes = sorted({min(size, limits.max_model_len) for size in _PROMPTS})
    batches = sorted({min(size, limits.max_running) for size in _BATCHES})
    contexts = sorted({min(size, limits.max_model_len) for size in _CONTEXTS})
    return fit_batch_times(
        [
            (float(n * size), float(n * size**2), row.prefill_s(n, size))
            for n in _NUM_PROMPTS
            for size in sizes
        ],
        [
            (float(batch), float(batch * context), row.decode_s(batch, context))
            for batch in batches
            for context in contexts
        ],
    )


class _StageRow:
    """Times of whole batches over stages in a row."""

    def __init__(
        self,
        stages: Sequence[FittedStage],
        hops: Sequence[LinkRate],
        shape: ModelShape,
        limits: Limits,
    ) -> None:
        self._times = [StageTime(s.device, shape, (s.start, s.end)) for s in stages]
        self._hops, self._shape = hops, shape
        self._max_step_tokens = limits.max_step_tokens

    def prefill_s(self, num_prompts: int, size: int) -> float:
        """Seconds to read some prompts of a size, in steps as full as they may be."""
        total = num_prompts * size
        num_steps = -(-total // self._max_step_tokens)
        positions = self._shape.kv_positions((size + 1) / 2)
        tokens = total / num_steps
        work = StepWork(
            num_tokens=tokens,
            num_pairs=tokens * positions,
            num_context=positions,
            num_drawn=num_prompts / num_steps,
        )
        through_s, slowest_s = self._step_s(work)
        return through_s + (num_steps - 1) * slowest_s

    def decode_s(self, batch: int, context: int) -> float:
        """Seconds until each of some sequences has one token more."""
        num_in_flight = min(batch, len(self._times))
        each = batch / num_in_flight
        held = each * self._shape.kv_positions(context)
        work = StepWork(num_tokens=each, num_pairs=held, num_context=held, num_drawn=each)
        through_s, slowest_s = self._step_s(work)
        return max(through_s, num_in_flight * slowest_s)

    def _step_s(self, work: StepWork) -> tuple[float, float]:
        """Seconds of the whole way, and of its slowest stage."""
        stages = [time.of(work) for time in self._times]
        num_bytes = work.num_tokens * self._shape.token_bytes
        hops_s = sum(transfer_time_s(hop, num_bytes) for hop in self._hops)
        return sum(stages) + hops_s, max(stages)
