"""Resident memory of a service's processes, sampled while it is under load (Linux)."""

import asyncio
import os
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.service import get_json

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@dataclass(slots=True)
class Residents:
    """Bytes of each process, by its role and name, oldest first."""

    pids: dict[str, int]
    samples: dict[str, list[int]] = field(default_factory=dict)

    def sample(self) -> None:
        """Look at all of them once; who is gone is left out."""
        for name, pid in self.pids.items():
            try:
                pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
            except OSError:
                continue
            self.samples.setdefault(name, []).append(pages * _PAGE_BYTES)

    async def keep_sampling(self, interval_s: float) -> None:
        """Look every so often, for ever."""
        while True:
            self.sample()
            await asyncio.sleep(interval_s)


def residents_of(url: str) -> Residents:
    """The processes of a service on this machine, as `/admin/status` lists them."""
    status = get_json(f"{url}/admin/status")
    pids = {f"{p['role']} {p['name']}": p["pid"] for p in status["processes"] if p["pid"]}
    for pipeline in status["pipelines"]:
        for stage in pipeline["stages"]:
            pids[f"stage {pipeline['id']}/{stage['stage']}"] = stage["pid"]
    return Residents(pids)
