"""What a stage worker holds for a pipeline: a shard for each epoch that may still be, or come.

The one idea: an epoch is a key. Beside the epoch that serves, the next one's shard is prepared;
whichever a step names runs it. The first sign of a newer epoch fences off the older ones, and once
the pipeline has settled, only its epoch is kept. It never knows a device, a wire or a request.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from actors.messages import AssignStage, StageReady
from models.forward_batch import ForwardBatch
from models.interface import ForwardResult, Shard
from models.replay_log import ReplayLog

CONTEXT_STEP = 512
"""Steps whose contexts differ by fewer tokens take about the same."""


@dataclass(frozen=True, slots=True)
class LoadedShard:
    """A shard with what the coordinator wants to know about it.

    `log` remembers what it gives out, and is None for the last stage or where it is turned off.
    `slowed` runs a step as a slower device would, where one is emulated; it is told how many
    tokens and sequences the step has, and about how long a context.
    Units: `resident_bytes` is the resident memory of the whole process.
    """

    shard: Shard
    log: ReplayLog | None
    weight_bytes: int
    kv_bytes: int
    resident_bytes: int
    slowed: Callable[[Callable[[], ForwardResult], tuple[int, ...]], ForwardResult] | None = None

    def forward(self, batch: ForwardBatch, hidden: memoryview | None) -> ForwardResult:
        """Run the shard, and remember what it gives out."""
        if self.slowed is None:
            return self._forward(batch, hidden)
        context = int(batch.starts.sum()) // CONTEXT_STEP
        kind = (*self.shard.layers, batch.num_tokens, batch.num_sequences, context)
        return self.slowed(lambda: self._forward(batch, hidden), kind)

    def _forward(self, batch: ForwardBatch, hidden: memoryview | None) -> ForwardResult:
        result = self.shard.forward(batch, hidden)
        if self.log is not None and result.hidden is not None:
            self.log.write(batch, result.hidden)
        return result


@dataclass(slots=True)
class Held:
    """A stage that is held for an epoch; `is_confirmed` once its pipeline has used it."""

    assignment: AssignStage
    loaded: LoadedShard
    is_confirmed: bool = False


class Holding:
    """All that one worker holds, by epoch."""

    def __init__(self) -> None:
        self._held: dict[int, Held] = {}
        self._fence = 0

    def __iter__(self) -> Iterator[Held]:
        return iter(self._held.values())

    @property
    def newest(self) -> Held | None:
        """What is held for the newest epoch."""
        return self._held[max(self._held)] if self._held else None

    def put(self, assignment: AssignStage, loaded: LoadedShard) -> None:
        """Hold a shard for an epoch; all that is of another pipeline goes."""
        self._held = {
            epoch: held
            for epoch, held in self._held.items()
            if held.assignment.pipeline == assignment.pipeline
        }
        self._held[assignment.epoch] = Held(assignment, loaded)

    def get(self, epoch: int) -> Held | None:
        """What is held for an epoch, for reading its blocks."""
        return self._held.get(epoch)

    def writable(self, epoch: int) -> Held | None:
        """What is held for an epoch that is not over: a later one's blocks may be the same."""
        return None if epoch < self._fence else self._held.get(epoch)

    def use(self, epoch: int) -> Held | None:
        """What is held for a step's epoch; None if that is over or was never prepared."""
        held = self._held.get(epoch)
        if held is None or epoch < self._fence:
            return None
        self._fence = epoch
        held.is_confirmed = True
        return held

    def fence(self, epoch: int) -> None:
        """Let no step of an older epoch in any more."""
        self._fence = max(self._fence, epoch)

    def settle(self, pipeline: str, epoch: int, upto: int) -> bool:
        """Of a pipeline's epochs up to one, keep one; True if anything went."""
        mine = [e for e, held in self._held.items() if held.assignment.pipeline == pipeline]
        if epoch in mine:
            self._held[epoch].is_confirmed = True
        dropped = [e for e in mine if e != epoch and e <= upto]
        for e in dropped:
            del self._held[e]
        return bool(dropped)

    def drop_unconfirmed(self, epoch: int) -> bool:
        """Drop what was prepared for an epoch and never used; True if it was there."""
        held = self._held.get(epoch)
        if held is None or held.is_confirmed:
            return False
        del self._held[epoch]
        return True


def log_for(
    assignment: AssignStage, num_layers: int, row_bytes: int, held: LoadedShard | None
) -> ReplayLog | None:
    """The log of a stage: the one it had if it ends where that did, none for the last stage."""
    if assignment.end == num_layers or not assignment.log_bytes:
        return None
    if held is not None and held.log is not None:
        shard = held.shard
        same = (shard.layers[1], shard.num_blocks) == (assignment.end, assignment.num_blocks)
        if same:
            return held.log
    sizes = (assignment.num_blocks, assignment.block_tokens, row_bytes, assignment.log_bytes)
    return ReplayLog(*sizes)


def is_same_shard(one: AssignStage, other: AssignStage) -> bool:
    """Whether the very same shard serves both."""
    return _key(one) == _key(other)


def shares_kv(one: AssignStage, other: AssignStage) -> bool:
    """Whether layers that are in both can be shared, KV and all."""
    mine, theirs = _key(one), _key(other)
    return mine[2:] == theirs[2:]


def stage_ready(wanted: AssignStage, loaded: LoadedShard, before: Held | None) -> StageReady:
    """What is told of a stage that is ready, given what was held when it was made."""
    kept = (0, 0)
    keeps_log = False
    if before is not None and shares_kv(before.assignment, wanted):
        start = max(before.assignment.start, wanted.start)
        end = min(before.assignment.end, wanted.end)
        kept = (start, end) if start < end else kept
        keeps_log = loaded.log is not None and loaded.log is before.loaded.log
    return StageReady(
        epoch=wanted.epoch,
        pipeline=wanted.pipeline,
        stage=wanted.stage,
        kept_start=kept[0],
        kept_end=kept[1],
        num_logged_blocks=0 if loaded.log is None else loaded.log.num_logged_blocks,
        keeps_log=keeps_log,
        weight_bytes=loaded.weight_bytes,
        kv_bytes=loaded.kv_bytes,
        resident_bytes=loaded.resident_bytes,
    )


def _key(assignment: AssignStage) -> tuple[object, ...]:
    """The layers first, then what must be equal for any of them to be shared."""
    return (
        assignment.start,
        assignment.end,
        assignment.pipeline,
        assignment.model,
        assignment.model_hash,
        assignment.dtype,
        assignment.wire_dtype,
        assignment.num_blocks,
        assignment.block_tokens,
    )
