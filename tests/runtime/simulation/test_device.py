"""An emulated device and its shard: what runs in which order, and what time it is charged."""

import asyncio
import random
from collections.abc import Callable, Coroutine
from typing import Any

import numpy as np
import pytest

from actors.holding import LoadedShard
from actors.kernel.ref import Ref
from actors.kernel.virtual_time import run
from actors.messages import AssignStage
from actors.step_record import step_work
from models.errors import ModelError
from runtime.simulation.device import DeviceFacts, EmulatedDevice
from runtime.simulation.record import Record
from runtime.simulation.step_facts import StepReader
from scheduling.kv_transport import DECODE_PASSES, ENCODE_PASSES
from scheduling.roofline import LinkRate, ModelShape, StageTime, model_cost
from scheduling.split import StageDevice
from tests.models.driving import make_batch

SHAPE = ModelShape(
    num_layers=4,
    hidden=64,
    num_heads=4,
    num_kv_heads=2,
    head_dim=16,
    intermediate=128,
    vocab=100,
)
COST = model_cost(SHAPE, num_kv_tokens=16)
RATES = StageDevice(memory_bytes=10**9, flops_per_s=1e9, bytes_per_s=1e6, layer_overhead_s=0.0)
LINK = LinkRate(bytes_per_s=1e3, latency_s=9.0)
LOAD_BYTES_PER_S = 1e5
BATCH = make_batch([[1, 2, 3]], [0], [[0]])


class Bench:
    """A device on virtual time, and when what it was asked for was done."""

    def __init__(self, **facts: Any) -> None:
        self.record = Record(1e-6)
        self.progress: list[tuple[int, int]] = []
        self.device = EmulatedDevice(
            DeviceFacts(
                worker="w",
                rates=RATES,
                shape=SHAPE,
                cost=COST,
                load_bytes_per_s=LOAD_BYTES_PER_S,
                link_to=lambda process: LINK,
                reader=StepReader(),
                watcher=self.record,
                **facts,
            )
        )

    def charge(self, seconds: float, sending_s: float = 0.0) -> Callable[[], float]:
        """Something to run that takes so long; it gives when it began."""

        def work() -> float:
            self.device.charge(seconds, sending_s)
            return now()

        return work

    def load(self, start: int, end: int, held: LoadedShard | None = None) -> LoadedShard:
        """A shard, without the time that it takes."""
        return self.device.load(_assignment(start, end), held, self._on_progress)

    def _on_progress(self, done: int, total: int) -> None:
        self.progress.append((done, total))


def now() -> float:
    return asyncio.get_running_loop().time()


def on_bench(scenario: Callable[[Bench], Coroutine[Any, Any, None]]) -> None:
    async def main(rng: random.Random) -> None:
        async with asyncio.timeout(1e6):
            await scenario(Bench())

    run(main, seed=0)


def _assignment(start: int, end: int) -> AssignStage:
    ref = Ref("memory://next", 1, "stage")
    return AssignStage(
        epoch=1,
        pipeline="0",
        stage=0,
        model="simulated",
        model_hash="h",
        start=start,
        end=end,
        dtype="bfloat16",
        wire_dtype="bfloat16",
        num_blocks=8,
        block_tokens=4,
        successor=ref,
        home=ref,
        observer=ref,
        log_bytes=8 * 4 * SHAPE.token_bytes,
    )


def test_work_runs_in_turn_and_is_done_when_its_time_is_over() -> None:
    async def scenario(bench: Bench) -> None:
        first, second = (bench.device.run(bench.charge(s)) for s in (2.0, 3.0))
        assert (await first, now()) == (0.0, 2.0)
        assert (await second, now()) == (2.0, 5.0)
        assert (await bench.device.run(bench.charge(1.0)), now()) == (5.0, 6.0)

    on_bench(scenario)


def test_a_result_leaves_beside_the_next_work_but_after_the_one_before_it() -> None:
    async def scenario(bench: Bench) -> None:
        works = [bench.device.run(bench.charge(1.0, 10.0)) for _ in range(2)]
        assert [(await work, now()) for work in works] == [(0.0, 11.0), (1.0, 21.0)]

    on_bench(scenario)


def test_what_runs_beside_keeps_nothing_waiting() -> None:
    async def scenario(bench: Bench) -> None:
        beside = bench.device.run_beside(bench.charge(50.0))
        assert (await bench.device.run(bench.charge(1.0)), now()) == (0.0, 1.0)
        assert (await beside, now()) == (0.0, 50.0)

    on_bench(scenario)


def test_copies_go_one_after_another_and_beside_the_steps() -> None:
    async def scenario(bench: Bench) -> None:
        step = bench.device.run(bench.charge(10.0))
        first, second = (bench.device.copy(bench.charge(s)) for s in (2.0, 3.0))
        assert (await first, now()) == (0.0, 2.0)
        assert (await second, now()) == (0.0, 5.0)
        assert (await step, now()) == (0.0, 10.0)

    on_bench(scenario)


def test_a_frozen_device_copies_nothing_until_it_may() -> None:
    async def scenario(bench: Bench) -> None:
        bench.device.freeze(30.0)
        await bench.device.copy(bench.charge(1.0))
        assert now() == 31.0

    on_bench(scenario)


@pytest.mark.parametrize("has_work", [False, True])
def test_a_frozen_device_begins_nothing_until_it_may(has_work: bool) -> None:
    async def scenario(bench: Bench) -> None:
        if has_work:
            bench.device.run(bench.charge(1.0))
        waiting = bench.device.run(bench.charge(1.0)) if has_work else None
        bench.device.freeze(30.0)
        last = bench.device.run(bench.charge(1.0))
        began = [await work for work in (waiting, last) if work is not None]
        assert began == ([30.0, 31.0] if has_work else [30.0])

    on_bench(scenario)


def test_a_device_that_was_turned_off_does_nothing_any_more() -> None:
    async def scenario(bench: Bench) -> None:
        for work in (bench.charge(1.0), bench.charge(1.0)):
            bench.device.run(work)
        later = bench.device.run(lambda: pytest.fail("it ran"))
        bench.device.turn_off()
        after = bench.device.run(lambda: pytest.fail("it ran"))
        await asyncio.sleep(100)
        assert not asyncio.ensure_future(later).done()
        assert not asyncio.ensure_future(after).done()

    on_bench(scenario)


def test_a_failure_is_the_callers_and_the_next_work_runs() -> None:
    def fail() -> None:
        raise ModelError("no")

    async def scenario(bench: Bench) -> None:
        with pytest.raises(ModelError, match="no"):
            await bench.device.run(fail)
        assert await bench.device.run(bench.charge(1.0)) == 0.0

    on_bench(scenario)


def test_a_result_that_nobody_waits_for_any_more_is_dropped() -> None:
    async def scenario(bench: Bench) -> None:
        asyncio.ensure_future(bench.device.run(bench.charge(1.0))).cancel()
        assert await bench.device.run(bench.charge(1.0)) == 1.0

    on_bench(scenario)


def test_a_step_takes_what_the_roofline_says_and_then_its_bytes_on_the_link() -> None:
    async def scenario(bench: Bench) -> None:
        loaded = bench.load(0, 2)
        step_s = StageTime(RATES, SHAPE, (0, 2)).of(step_work(BATCH))
        await bench.device.run(lambda: loaded.forward(BATCH, None))
        assert now() == pytest.approx(step_s + 3 * SHAPE.token_bytes / LINK.bytes_per_s)
        row = bench.record.rows["w"]
        assert (row.num_steps, row.num_tokens) == (1, 3)
        assert row.busy_s == pytest.approx(step_s)

    on_bench(scenario)


def test_the_last_stages_tokens_weigh_nothing_on_the_link() -> None:
    async def scenario(bench: Bench) -> None:
        loaded = bench.load(0, 4)
        result = await bench.device.run(lambda: loaded.forward(BATCH, None))
        assert result.token_ids is not None
        assert now() == pytest.approx(StageTime(RATES, SHAPE, (0, 4)).of(step_work(BATCH)))

    on_bench(scenario)


def test_loading_takes_the_time_of_the_weights_that_were_not_held() -> None:
    async def scenario(bench: Bench) -> None:
        layer_s, head_s = (n / LOAD_BYTES_PER_S for n in (COST.layer_bytes[0], COST.head_bytes))
        held = await bench.device.run(lambda: bench.load(0, 2))
        assert now() == pytest.approx(2 * layer_s + head_s)
        began = now()
        await bench.device.run_beside(lambda: bench.load(1, 4, held))
        assert now() - began == pytest.approx(2 * layer_s + head_s)
        assert all(done == total > 0 for done, total in bench.progress)

    on_bench(scenario)


def test_kv_blocks_take_the_time_of_the_bytes_that_real_ones_would_have() -> None:
    async def scenario(bench: Bench) -> None:
        shard, blocks = bench.load(0, 2).shard, np.array([0, 3], np.int32)
        num_bytes = 2 * 4 * SHAPE.kv_bytes_per_token
        data = await bench.device.run(lambda: shard.read_blocks(1, blocks))
        assert now() == pytest.approx(num_bytes / RATES.bytes_per_s + num_bytes / LINK.bytes_per_s)
        began = now()
        await bench.device.run(lambda: shard.write_blocks(1, blocks, data))
        assert now() - began == pytest.approx(num_bytes / RATES.bytes_per_s)
        began = now()
        await bench.device.run(lambda: shard.copy_blocks(blocks, blocks + 1))
        assert now() - began == pytest.approx(2 * 2 * num_bytes / RATES.bytes_per_s)

    on_bench(scenario)


def test_encoded_blocks_take_the_link_as_long_as_real_ones_of_their_size_would() -> None:
    async def scenario(bench: Bench) -> None:
        shard, blocks = bench.load(0, 2).shard, np.array([0, 3], np.int32)
        reading_s = 2 * shard.block_bytes() / RATES.bytes_per_s
        wire_s = 2 * shard.block_bytes("int4") / LINK.bytes_per_s
        assert shard.block_bytes() == 4 * SHAPE.kv_bytes_per_token
        assert shard.block_bytes("int4") < shard.block_bytes("int8") < shard.block_bytes()
        data = await bench.device.run(lambda: shard.read_blocks(1, blocks, "int4"))
        assert now() == pytest.approx(ENCODE_PASSES * reading_s + wire_s)
        began = now()
        await bench.device.run(lambda: shard.write_blocks(1, blocks, data, "int4"))
        assert now() - began == pytest.approx(DECODE_PASSES * reading_s)

    on_bench(scenario)


def test_a_view_on_some_layers_is_charged_for_them_alone() -> None:
    async def scenario(bench: Bench) -> None:
        part = bench.load(0, 3).shard.narrowed(0, 1)
        await bench.device.run(lambda: part.forward(BATCH, None))
        busy_s = bench.record.rows["w"].busy_s
        assert busy_s == pytest.approx(StageTime(RATES, SHAPE, (0, 1)).of(step_work(BATCH)))
        assert part.resident_bytes == SHAPE.layer_parameters * SHAPE.dtype_bytes
        assert (part.layers, part.num_blocks, part.block_tokens) == ((0, 1), 8, 4)

    on_bench(scenario)


def test_the_log_has_room_for_as_many_tokens_as_a_real_one_would() -> None:
    async def scenario(bench: Bench) -> None:
        log = bench.load(0, 2).log
        assert log is not None
        assert log.num_logged_blocks == 8
        assert bench.load(2, 4).log is None

    on_bench(scenario)
