"""How much of the machine somebody else uses while we measure (Linux).

Ratios of systems that run one after the other mean little on a machine that others use: a system
with two threads may lose nine tenths of its speed to one foreign thread, where another loses half.
So every measurement is told how many cores were used by processes that are not of our own family.
"""

import os
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class MachineTime:
    """Seconds on the clock, and of all cores: in use at all, and by our own processes."""

    clock_s: float
    busy_s: float
    ours_s: float

    def foreign_cores_since(self, before: "MachineTime") -> float:
        """Cores that others used between two looks, on average."""
        foreign_s = (self.busy_s - before.busy_s) - (self.ours_s - before.ours_s)
        return max(0.0, foreign_s / max(self.clock_s - before.clock_s, 1e-9))


def machine_time() -> MachineTime:
    """Look now; where the kernel tells nothing, no foreign use is ever seen."""
    return MachineTime(time.perf_counter(), _busy_s(), _family_s(os.getpid()))


def describe_machine() -> str:
    """Its processor and number of cores, in a few words."""
    try:
        lines = (_PROC / "cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else 'unknown processor'}, {os.cpu_count()} cores"


def resident_bytes(pid: int) -> int:
    """Memory that a process holds now; 0 where the kernel does not tell."""
    try:
        pages = int((_PROC / str(pid) / "statm").read_text(encoding="ascii").split()[1])
    except OSError:
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def _busy_s() -> float:
    try:
        fields = (_PROC / "stat").read_text(encoding="ascii").split("\n", 1)[0].split()[1:8]
    except OSError:
        return 0.0
    user, nice, system, _idle, _iowait, irq, softirq = map(int, fields)
    return (user + nice + system + irq + softirq) / _TICKS_PER_S


def _family_s(root: int) -> float:
    """Seconds that a process and all its descendants used, those that ended included."""
    children: dict[int, list[int]] = defaultdict(list)
    used: dict[int, int] = {}
    for path in _PROC.glob("[0-9]*/stat"):
        try:
            fields = path.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        except OSError:  # it ended while we looked
            continue
        pid = int(path.parent.name)
        children[int(fields[1])].append(pid)
        used[pid] = sum(map(int, fields[11:15]))
    family, ticks = [root], 0
    while family:
        member = family.pop()
        ticks += used.get(member, 0)
        family += children[member]
    return ticks / _TICKS_PER_S
