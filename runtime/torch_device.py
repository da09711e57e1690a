"""A stage's device: one thread, so that tensor work is in order and the event loop never blocks.

torch is imported in that thread on first use: it takes seconds, during which the process already
answers its peers.
"""

import asyncio
import os
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from actors.messages import AssignStage
from actors.stage import LoadedShard
from models.checkpoint import Checkpoint
from models.errors import ModelError
from runtime.profile import model_path

if TYPE_CHECKING:
    from models.device import DeviceMeasurement

_T = TypeVar("_T")


class TorchDevice:
    """`cpu` or `cuda:i` of this machine, for one stage."""

    def __init__(self, device: str, num_threads: int) -> None:
        self._device = device
        self._num_threads = num_threads
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="device")

    def run(self, function: Callable[[], _T]) -> Awaitable[_T]:
        """Run a blocking function in the device's thread, after all earlier ones."""
        return asyncio.get_running_loop().run_in_executor(self._thread, function)

    def measure(self) -> "DeviceMeasurement":
        """What this device can do, measured now; blocking."""
        from models.device import measure_device, set_num_threads

        set_num_threads(self._num_threads)
        return measure_device(self._device)

    def load(self, assignment: AssignStage, on_progress: Callable[[int, int], None]) -> LoadedShard:
        """Load the layers of an assignment from this machine's own copy of the model; blocking."""
        from models.shard import load_shard

        path = model_path(assignment.model)
        _check_same_model(path, assignment.model_hash)
        shard = load_shard(
            path,
            assignment.start,
            assignment.end,
            device=self._device,
            dtype=assignment.dtype,
            wire_dtype=assignment.wire_dtype,
            num_blocks=assignment.num_blocks,
            block_tokens=assignment.block_tokens,
            on_progress=on_progress,
        )
        return LoadedShard(
            shard=shard,
            weight_bytes=shard.resident_bytes,
            kv_bytes=shard.kv_bytes,
            resident_bytes=resident_bytes(),
        )


def resident_bytes() -> int:
    """Resident memory of this process; 0 where the platform does not tell."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except OSError:
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def _check_same_model(path: Path, expected: str) -> None:
    found = Checkpoint.open(path).content_hash
    if found != expected:
        raise ModelError(
            f"{path} on this node is not the model that is served: its hash is {found}, "
            f"expected {expected}; copy the same checkpoint to every node"
        )
