"""A stage's device: a thread for its steps, so that they are in order and no event loop blocks.

Blocks that no step is at are copied by a thread of its own, so that neither waits for the other.

torch is imported in that thread on first use: it takes seconds, during which the process already
answers its peers.
"""

import asyncio
import logging
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from actors.holding import LoadedShard, log_for
from actors.messages import AssignStage
from models.weight_source import open_checked
from runtime.loading_room import store_for
from runtime.profile import digest_cache, model_path

if TYPE_CHECKING:
    from models.checkpoint import Checkpoint
    from models.device import DeviceMeasurement
    from models.shard import TorchShard
    from models.tensor_store import TensorStore

_T = TypeVar("_T")
_log = logging.getLogger(__name__)

WIRE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


class TorchDevice:
    """`cpu` or `cuda:i` of this machine, for one stage."""

    def __init__(
        self, device: str, num_threads: int, store: Path | None = None, *, speed: float = 1.0
    ) -> None:
        """A device; `store` is where its node keeps weights in shared memory, None if nowhere.

        `speed` is the part of its speed at which it plays a slower one.
        """
        self._device = device
        self._num_threads = num_threads
        self._store = store
        self._speed = speed
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="device")
        self._loader = ThreadPoolExecutor(1, thread_name_prefix="loader")
        self._copier = ThreadPoolExecutor(1, thread_name_prefix="copier")

    def run(self, function: Callable[[], _T]) -> "asyncio.Future[_T]":
        """Run a blocking function in the device's thread, after all earlier ones."""
        return asyncio.get_running_loop().run_in_executor(self._thread, function)

    def run_beside(self, function: Callable[[], _T]) -> "asyncio.Future[_T]":
        """Run a blocking function in the loader's thread, beside what the device does."""
        return asyncio.get_running_loop().run_in_executor(self._loader, function)

    def copy(self, function: Callable[[], _T]) -> "asyncio.Future[_T]":
        """Run a blocking function in the copier's thread, beside the steps."""
        return asyncio.get_running_loop().run_in_executor(self._copier, function)

    def measure(self) -> "DeviceMeasurement":
        """What this device can do, measured now; blocking."""
        from models.device import measure_device, set_num_threads
        from models.slowness import slowness_of

        set_num_threads(self._num_threads)
        return slowness_of(self._device, self._speed).measured(measure_device(self._device))

    def load(
        self,
        assignment: AssignStage,
        held: LoadedShard | None,
        on_progress: Callable[[int, int], None],
    ) -> LoadedShard:
        """Load the layers of an assignment from a model's directory on this machine; blocking.

        What the node's tensor store has is attached, and what it lacks is left there. Beside a
        shard that serves, reading keeps to a pace that leaves it its share.

        Raises:
            ModelError: the directory holds another model, or there is no room for the layers.
        """
        from models.shard import TorchShard
        from models.slowness import slowness_of

        began_s = time.monotonic()
        before = held.shard if held is not None else None
        assert before is None or isinstance(before, TorchShard)
        checkpoint, shard, store = self._load(assignment, before, on_progress)
        _log.info(
            "stage loaded layers=%d:%d duration_s=%.3f weight_bytes=%d shared_bytes=%d "
            "stored_bytes=%d",
            assignment.start,
            assignment.end,
            time.monotonic() - began_s,
            shard.resident_bytes,
            shard.shared_bytes,
            0 if store is None else store.num_bytes,
        )
        row_bytes = checkpoint.config.hidden_size * WIRE_BYTES[assignment.wire_dtype]
        return LoadedShard(
            shard=shard,
            log=log_for(assignment, checkpoint.config.num_layers, row_bytes, held),
            weight_bytes=shard.resident_bytes,
            kv_bytes=shard.kv_bytes,
            resident_bytes=resident_bytes(),
            slowed=None if self._speed == 1 else slowness_of(self._device, self._speed).run,
        )

    def _load(
        self,
        assignment: AssignStage,
        before: "TorchShard | None",
        on_progress: Callable[[int, int], None],
    ) -> "tuple[Checkpoint, TorchShard, TensorStore | None]":
        """The model's headers, the layers, and the store that they were taken from, if any."""
        from models.shard import load_shard

        path, policy = model_path(assignment.model), assignment.weights
        checkpoint, _ = open_checked(path, assignment.model_hash, policy.verify, digest_cache())
        store = store_for(assignment, checkpoint, self._device, before, self._store)
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
            held=before,
            max_bytes_per_s=policy.max_bytes_per_s if before is not None else None,
            store=store,
            model_hash=assignment.model_hash,
        )
        return checkpoint, shard, store


def resident_bytes() -> int:
    """Resident memory of this process; 0 where the platform does not tell."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except OSError:
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")
