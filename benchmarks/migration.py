"""How fast KV blocks go from one stage worker to another, beside a bare copy of the same bytes.

    python -m benchmarks.migration
    python -m benchmarks.migration --mb 256 --profile

Two processes hold the same half of the bench checkpoint's layers, as stage workers do. One copies
KV blocks to the other by `SendBlocks`: read from the cache in the copying thread, summed, sent as
a message, checked and written by the other device's, acknowledged. The bare copy sends as
many bytes between the same processes over the same lane in chunks of the same size, from one buffer
into another (`transport.bulk`, checksums included). They take turns; the ratio is the median of the
rounds' own. Blocks lie in a row, or scattered as after hours of serving. Beside the clock stands
the processor time of both processes, which says more where others use the machine; the second
table tells for how long a piece kept the copying thread, beside the steps.
"""

import argparse
import asyncio
import cProfile
import os
import pstats
import random
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table

from actors.kernel.ref import Ref
from actors.kernel.system import ActorSystem
from actors.messages import BlockPiece, BlocksSent, BlocksWritten, SendBlocks, WriteBlocks
from actors.migration import PIECE_BYTES, pieces
from actors.stage import StageActor
from benchmarks.checkpoint import bench_checkpoint
from benchmarks.gaps import percentile
from benchmarks.machine import describe_machine, machine_time
from benchmarks.migration_ends import (
    EPOCH,
    STAGE_NAME,
    TIMEOUT_S,
    BareSender,
    Deaf,
    TimedDevice,
    assign,
    assignment,
    far_process,
    kv_block_bytes,
    new_token,
    open_end,
)
from benchmarks.threads import process_time
from models.demo import demo_path
from transport.checksum import checksum
from transport.endpoint import Lane

Ids = npt.NDArray[np.int32]

TARGET = 0.7
NUM_LAYERS = 6


@dataclass(slots=True)
class Copies:
    """The rounds of one layout, and for how long each piece kept the devices."""

    ours: list["Speed"] = field(default_factory=list)
    bare: list["Speed"] = field(default_factory=list)
    reads_s: list[float] = field(default_factory=list)
    writes_s: list[float] = field(default_factory=list)

    def ratios(self, what: str) -> list[float]:
        """Ours by the bare one, round by round."""
        pairs = zip(self.ours, self.bare, strict=True)
        return [getattr(our, what) / getattr(bare, what) for our, bare in pairs]


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """Bytes of one copy per second of the clock, and per second of both processes on a core."""

    per_s: float
    per_cpu_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What to copy: about so many bytes of blocks of a model's first layers, so many times."""

    model: Path
    num_bytes: int
    rounds: int
    is_profiled: bool = False

    @property
    def block_bytes(self) -> int:
        """Bytes of a block of one layer."""
        return kv_block_bytes(str(self.model))

    @property
    def num_blocks(self) -> int:
        """Blocks of each layer."""
        return max(1, self.num_bytes // (NUM_LAYERS * self.block_bytes))


def main(arguments: list[str] | None = None) -> None:
    """Measure, and print the tables."""
    options = _parser().parse_args(arguments)
    model = options.model or (demo_path() if options.quick else bench_checkpoint())
    wish = Wish(
        model=model,
        num_bytes=(4 if options.quick else options.mb) << 20,
        rounds=2 if options.quick else options.rounds,
        is_profiled=options.profile,
    )
    before = machine_time()
    found = asyncio.run(measure_copies(wish))
    foreign_cores = machine_time().foreign_cores_since(before)
    console = Console()
    console.print(speed_table(found, wish.num_bytes))
    console.print(wait_table(found))
    console.print(f"{describe_machine()}; others used {foreign_cores:.2f} cores on average")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.migration",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--rounds", type=int, default=15, help="turns of each kind and layout (default 15)")
    add("--mb", type=int, default=96, help="MiB of one copy (default 96)")
    add("--model", type=Path, help="a checkpoint (default: a random Llama made for this)")
    add("--profile", action="store_true", help="also print where the sender's loop spends its time")
    add("--quick", action="store_true", help="the demo model and 4 MiB: only to try it out")
    return parser


async def measure_copies(wish: Wish) -> dict[str, Copies]:
    """Copies of both kinds, of blocks in a row and scattered, taking turns."""
    blocks = layouts(wish.num_blocks)
    found = {layout: Copies() for layout in blocks}
    async with _both_ends(wish) as ends:
        for ids in blocks.values():
            await ends.copy(ids)
            await ends.bare.copy()
        await ends.take_times()
        for _ in range(wish.rounds):
            for layout, copies in found.items():
                copies.ours.append(await ends.timed(ends.copy(blocks[layout])))
                copies.bare.append(await ends.timed(ends.bare.copy()))
                reads, writes = await ends.take_times()
                copies.reads_s += reads
                copies.writes_s += writes
        if wish.is_profiled:
            with _profiled():
                await ends.copy(blocks["in a row"])
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ends:
    """A stage here, a stage there, and the bare way between the same processes."""

    source: Ref
    target: Ref
    system: ActorSystem
    device: TimedDevice
    bare: BareSender
    far_pid: int

    async def timed(self, copy: Awaitable[None]) -> Speed:
        """How fast a copy is."""
        cpu_before, began = self._cpu_s(), time.perf_counter()
        await copy
        clock_s, cpu_s = time.perf_counter() - began, self._cpu_s() - cpu_before
        num_bytes = self.bare.num_bytes
        return Speed(per_s=num_bytes / clock_s, per_cpu_s=num_bytes / max(cpu_s, 1e-9))

    def _cpu_s(self) -> float:
        return process_time(os.getpid()).ran_s + process_time(self.far_pid).ran_s

    async def copy(self, blocks: Ids) -> None:
        """Copy these blocks of all layers from the one stage to the other."""
        ids = packed(blocks)
        message = SendBlocks(
            epoch=EPOCH,
            start=0,
            end=NUM_LAYERS,
            blocks=ids,
            target=self.target,
            target_epoch=EPOCH,
            target_blocks=ids,
            deadline_s=TIMEOUT_S,
        )
        answer = await self.system.ask(self.source, message, timeout_s=TIMEOUT_S)
        if not isinstance(answer, BlocksSent) or answer.num_bytes != self.bare.num_bytes:
            raise RuntimeError(f"expected {self.bare.num_bytes} bytes to be copied, got {answer}")

    async def take_times(self) -> tuple[list[float], list[float]]:
        """For how long reads here and writes there kept their devices, since last asked."""
        return self.device.take_times(), await self.bare.take_times()


@asynccontextmanager
async def _both_ends(wish: Wish) -> AsyncIterator[_Ends]:
    token, device, model = new_token(), TimedDevice(), str(wish.model)
    async with (
        far_process(token) as (address, bare_address, far_pid),
        open_end("near", token) as (system, endpoint),
    ):
        source = system.spawn(StageActor(device), name=STAGE_NAME)
        target = system.ref(address, STAGE_NAME)
        await system.connect(address, timeout_s=TIMEOUT_S)
        anybody = system.spawn(Deaf(), name="deaf")
        wanted = assignment(model, NUM_LAYERS, wish.num_blocks, anybody)
        async with asyncio.TaskGroup() as loading:
            for stage in (source, target):
                loading.create_task(assign(system, stage, wanted))
        data = await _fill(system, source, wish)
        peer = await endpoint.connect(bare_address, timeout_s=TIMEOUT_S)
        yield _Ends(
            source=source,
            target=target,
            system=system,
            device=device,
            bare=BareSender(endpoint, peer, data),
            far_pid=far_pid,
        )


async def _fill(system: ActorSystem, stage: Ref, wish: Wish) -> bytes:
    """Give every block bytes of its own, so that its memory is real; all of them together."""
    rng, size, data = np.random.default_rng(0), wish.block_bytes, []
    blocks = np.arange(wish.num_blocks, dtype=np.int32)
    for piece in pieces(0, NUM_LAYERS, blocks, blocks, max(1, PIECE_BYTES // size)):
        num_layers = piece.end - piece.start
        part = [rng.bytes(len(piece.blocks) * size) for _ in range(num_layers)]
        data += part
        head = BlockPiece(piece.start, num_layers, packed(piece.blocks), checksum(part))
        message = WriteBlocks(epoch=EPOCH, pieces=(head,))
        answer = await system.ask(stage, message, buffers=part, lane=Lane.BULK, timeout_s=TIMEOUT_S)
        if not isinstance(answer, BlocksWritten) or answer.failure is not None:
            raise RuntimeError(f"the source was not filled: {answer}")
    return b"".join(data)


def packed(blocks: Ids) -> bytes:
    """Block ids as they travel."""
    return blocks.astype("<i4").tobytes()


def layouts(num_blocks: int) -> dict[str, Ids]:
    """All blocks in their order, and in a random one."""
    in_a_row = np.arange(num_blocks, dtype=np.int32)
    scattered = in_a_row.tolist()
    random.Random(0).shuffle(scattered)
    return {"in a row": in_a_row, "scattered": np.asarray(scattered, np.int32)}


@contextmanager
def _profiled() -> Iterator[None]:
    profiler = cProfile.Profile()
    profiler.enable()
    yield
    profiler.disable()
    sys.stderr.write("the sender's event loop, one copy:\n")
    pstats.Stats(profiler, stream=sys.stderr).sort_stats("tottime").print_stats(24)


def speed_table(found: dict[str, Copies], num_bytes: int) -> Table:
    """Medians of both and their ratio, beside the target."""
    table = Table(title=f"KV blocks between two processes, {num_bytes >> 20} MiB a copy", box=None)
    table.add_column("blocks")
    for heading in ("ours", "bare", "ratio", "of rounds", "ours", "bare", "ratio"):
        table.add_column(heading, justify="right")
    table.add_column("target", justify="right")
    for layout, copies in found.items():
        ratios = copies.ratios("per_s")
        is_met = median(ratios) >= TARGET
        table.add_row(
            layout,
            *_medians(copies, "per_s"),
            f"{min(ratios):.2f}–{max(ratios):.2f}",
            *_medians(copies, "per_cpu_s"),
            f"≥ {TARGET} {'met' if is_met else 'missed'}",
        )
    table.caption = "MB by second of the clock, then of both processes' time on a core"
    return table


def _medians(copies: Copies, what: str) -> list[str]:
    cells = [
        f"{median(getattr(speed, what) for speed in speeds) / 1e6:.0f}"
        for speeds in (copies.ours, copies.bare)
    ]
    return [*cells, f"{median(copies.ratios(what)):.2f}×"]


def wait_table(found: dict[str, Copies]) -> Table:
    """For how long a piece kept the thread that copies."""
    table = Table(title="for how long a piece kept the copying thread, ms", box=None)
    table.add_column("blocks")
    for heading in ("read p50", "p99", "write p50", "p99"):
        table.add_column(heading, justify="right")
    for layout, copies in found.items():
        both = (copies.reads_s, copies.writes_s)
        table.add_row(
            layout,
            *(f"{1000 * percentile(s, share):.2f}" for s in both for share in (0.5, 0.99)),
        )
    return table


if __name__ == "__main__":
    main()
