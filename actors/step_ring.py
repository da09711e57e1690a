"""The steps of a pipeline: sent round its stages, taken back, paused, abandoned and replayed.

The one idea: whatever changes, be it stages, owner or a single request, happens between steps. A
change asks for a pause, waits until the ring is empty, and lets it go on. It never knows who waits
for the tokens.
"""

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from actors.kernel.actor import Context
from actors.kernel.ref import Ref
from actors.messages import ChangeStages, OpenPipeline, ReplayFrom, ReplayStep, StageSpec, StepInput
from actors.stage_change import ChangeFailed
from actors.step_batch import forward_batch
from scheduling.batcher import Batcher, BatcherSettings, Output
from scheduling.blocks import BlockPool
from scheduling.sequence import Sequence as TokenSequence

FIRST_REPLAY_STEP = 1 << 40
"""Steps that are not the batcher's are numbered from here on."""


class StepRing:
    """The stages of one pipeline and the steps among them.

    `on_turn` is called whenever steps may have come back, been sent or been forgotten.
    """

    context: Context
    """The pipeline actor's, set when it starts."""

    def __init__(self, opened: OpenPipeline) -> None:
        self.batcher = _new_batcher(opened)
        self.epoch = opened.epoch
        self.stages = opened.stages
        self.num_blocks = opened.num_blocks
        self.block_tokens = opened.block_tokens
        self.max_step_tokens = opened.max_step_tokens
        self.num_steps = 0
        self.round_s = 0.0
        self._sent_at: dict[int, float] = {}
        self._forgot_at: float | None = None
        self._num_pauses = 0
        self._gone: set[Ref] = set()
        self._replays: dict[int, asyncio.Future[None]] = {}
        self._num_replays = 0
        self._turn = asyncio.Event()
        self.on_turn: Callable[[], None] = lambda: None

    # --- steps

    def pump(self) -> None:
        """Send every step that can be sent now."""
        if not (self._num_pauses or self.lost):
            self._send_steps()
        self.on_turn()

    def _send_steps(self) -> None:
        while (step := self.batcher.next_step()) is not None:
            batch = forward_batch(step.slots)
            message = StepInput(epoch=self.epoch, step=step.number, batch=batch.pack())
            self.num_steps += 1
            self._sent_at[step.number] = self.context.loop_time()
            self.context.tell(self.stages[0].ref, message)

    def complete(
        self, step: int, token_ids: Sequence[int], details: Mapping[int, bytes]
    ) -> list[Output] | None:
        """Take a step's result, and send what can be sent now; None if it was not in flight."""
        sent_at = self._sent_at.pop(step, None)
        if sent_at is None:
            return None
        self._forgot_at = None  # stages run their steps in order
        self.round_s += self.context.loop_time() - sent_at
        outputs = self.batcher.complete(step, token_ids, details)
        self.pump()
        self._turn.set()
        return outputs

    def oldest_step_s(self) -> float:
        """How long the oldest step has been under way, in seconds."""
        now = self.context.loop_time()
        return now - min(self._sent_at.values(), default=now)

    def restart_clocks(self) -> None:
        """Count every step in flight as sent now: nobody was here to take its result."""
        self._sent_at = dict.fromkeys(self._sent_at, self.context.loop_time())

    def may_run_forgotten(self, step_deadline_s: float) -> bool:
        """Whether a stage may yet run a step that was forgotten, and write blocks free by now.

        It may until a later one came back, or as long as any may take.
        """
        since = self._forgot_at
        return since is not None and self.context.loop_time() < since + step_deadline_s

    def abandon(self) -> None:
        """Forget the steps in flight: their tokens are computed again."""
        if self._sent_at:
            self._forgot_at = self.context.loop_time()
        self.batcher.abandon_steps()
        self._sent_at.clear()
        self._turn.set()
        self.on_turn()

    # --- losses

    @property
    def lost(self) -> frozenset[Ref]:
        """Workers of the present stages that are gone."""
        if not self._gone:
            return frozenset()
        return frozenset(stage.ref for stage in self.stages if stage.ref in self._gone)

    def uses(self, ref: Ref) -> bool:
        """Whether a worker is one of the present stages and not known to be gone."""
        return ref not in self._gone and any(stage.ref == ref for stage in self.stages)

    def note_gone(self, ref: Ref) -> int | None:
        """A worker is gone; the stage that it was, if that is news."""
        if ref in self._gone:
            return None
        self._gone.add(ref)
        self._fail_replays()
        return next((i for i, stage in enumerate(self.stages) if stage.ref == ref), None)

    def forget_gone(self, ref: Ref) -> None:
        """A worker is none of this pipeline's any more."""
        self._gone.discard(ref)

    def strangers(self, stages: Sequence[StageSpec]) -> list[Ref]:
        """Workers that are none of the present stages and were out of reach when last heard of."""
        present = {stage.ref for stage in self.stages}
        return [s.ref for s in stages if s.ref in self._gone and s.ref not in present]

    def check(self, stages: Sequence[StageSpec]) -> None:
        """Raise `ChangeFailed` if one of these is gone."""
        gone = [stage.ref for stage in stages if stage.ref in self._gone]
        if gone:
            raise ChangeFailed(f"{gone[0]} was lost")

    # --- pauses

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Send no step while this is held."""
        self._num_pauses += 1
        try:
            yield
        finally:
            self._num_pauses -= 1

    async def drained(self) -> None:
        """Wait until no step is in flight; whoever waits has a deadline."""
        await self._until(lambda: not self._sent_at)

    @contextmanager
    def parked(self, request: str) -> Iterator[None]:
        """Send no step with this request while this is held."""
        self.batcher.park(request)
        try:
            yield
        finally:
            self.batcher.park(request, parked=False)

    def present(self, request: str) -> TokenSequence:
        """A request that is here; raises `ChangeFailed` if it ended."""
        sequence = self.batcher.sequence(request)
        if sequence is None:
            raise ChangeFailed(f"request {request} is not here any more")
        return sequence

    async def idle(self, request: str) -> TokenSequence:
        """Wait until no step with a request is in flight; whoever waits has a deadline.

        Raises:
            ChangeFailed: it ended meanwhile.
        """
        find = self.batcher.sequence
        await self._until(lambda: (s := find(request)) is None or not s.in_flight)
        sequence = find(request)
        if sequence is None:
            raise ChangeFailed(f"request {request} ended")
        return sequence

    async def _until(self, holds: Callable[[], bool]) -> None:
        while not holds():
            self._turn.clear()
            await self._turn.wait()

    # --- replaying

    def next_step_number(self) -> int:
        """A number for a step that is not the batcher's."""
        self._num_replays += 1
        return FIRST_REPLAY_STEP + self._num_replays

    async def replay(self, to: Ref, message: ReplayFrom | ReplayStep) -> None:
        """Send a batch to be computed again, and wait until it was; raises `ChangeFailed`."""
        done = self._replays[message.step] = asyncio.get_running_loop().create_future()
        try:
            self.context.tell(to, message)
            await done
        finally:
            del self._replays[message.step]

    def replayed(self, step: int) -> None:
        """A batch was computed again."""
        done = self._replays.get(step)
        if done is not None and not done.done():
            done.set_result(None)

    def _fail_replays(self) -> None:
        for done in self._replays.values():
            if not done.done():
                done.set_exception(ChangeFailed("a stage was lost while KV was rebuilt"))

    # --- changing

    @property
    def running(self) -> Sequence[TokenSequence]:
        """The sequences that hold blocks."""
        return self.batcher.running

    @property
    def sequences(self) -> Sequence[TokenSequence]:
        """All requests, those that came first first."""
        return self.batcher.sequences

    def preempt(self, request: str) -> None:
        """Have a sequence computed from its beginning."""
        self.batcher.preempt(request)

    @property
    def unlogged(self) -> frozenset[int]:
        """Blocks whose entries were not computed by steps of these stages."""
        return frozenset(self.batcher.pool.unlogged)

    def note_unlogged(self, blocks: Iterable[int]) -> None:
        """No log here has what is in these held blocks: it was computed elsewhere."""
        self.batcher.pool.unlogged.update(blocks)

    def commit(
        self, wanted: ChangeStages, unlogged: frozenset[int], numbers: Mapping[int, int]
    ) -> None:
        """Go on over the new stages; `numbers` are the new ids of blocks that have one.

        Only what sequences hold came along: of what was kept beside that, nothing is found again.
        """
        self.epoch, self.stages = wanted.epoch, wanted.stages
        self.batcher.change_stages(len(wanted.stages))
        if wanted.num_blocks != self.num_blocks:
            self.num_blocks = wanted.num_blocks
            self.batcher.change_pool(BlockPool(self.num_blocks, self.block_tokens), numbers)
        self.batcher.forget_prefixes()
        self.batcher.pool.unlogged = set(unlogged)


def _new_batcher(opened: OpenPipeline) -> Batcher:
    num_stages = len(opened.stages)
    settings = BatcherSettings(
        max_running=opened.max_running,
        max_waiting=opened.max_waiting,
        max_step_tokens=opened.max_step_tokens,
        max_in_flight=num_stages + 1,
        num_stages=num_stages,
        max_model_tokens=opened.max_model_len,
        prefix_sharing=opened.prefix_sharing,
    )
    return Batcher(settings, BlockPool(opened.num_blocks, opened.block_tokens))
