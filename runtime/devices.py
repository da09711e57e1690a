"""Which devices this machine offers, without loading torch where there is no GPU to ask about."""

import asyncio
import logging
import os
import sys
from pathlib import Path

from runtime.errors import LaunchFailed

_log = logging.getLogger(__name__)

PROBE_TIMEOUT_S = 120.0
_GPU_DRIVERS = ("/proc/driver/nvidia/version", "/dev/kfd", "/dev/dxg")
_PROBE = "import torch; print(torch.cuda.device_count())"


async def list_devices() -> tuple[str, ...]:
    """The GPUs that torch sees, `cuda:0` and on; `cpu` where there is none."""
    if not has_gpu_driver():
        return ("cpu",)
    gpus = tuple(f"cuda:{i}" for i in range(await _count_gpus()))
    if not gpus:
        _log.warning("a GPU driver is here, but torch sees no GPU; offering the cpu")
    return gpus or ("cpu",)


def has_gpu_driver() -> bool:
    """Whether there is a GPU to ask about, by the files its driver leaves."""
    return any(Path(driver).exists() for driver in _GPU_DRIVERS)


async def _count_gpus() -> int:
    """Ask in a process of its own: a CUDA context costs hundreds of megabytes."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _PROBE, stdout=asyncio.subprocess.PIPE
    )
    try:
        async with asyncio.timeout(PROBE_TIMEOUT_S):
            output, _ = await process.communicate()
    except TimeoutError:
        process.kill()
        await process.wait()
        raise LaunchFailed(
            f"torch did not count this machine's GPUs within {PROBE_TIMEOUT_S:g} s"
        ) from None
    return int(output) if process.returncode == 0 and output.strip().isdigit() else 0


def num_cores() -> int:
    """Cores this process may use."""
    if sys.platform.startswith("linux"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
