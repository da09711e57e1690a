"""How long the threads of a process ran, waited for a core, or had nothing to do (Linux).

The kernel counts, for every thread, nanoseconds on a core and nanoseconds in the queue for one. A
thread that waits in the queue has work: on a machine with other users that must not pass for
idleness, nor for time that the work took.
"""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class ThreadTime:
    """Seconds that a thread, or several, ran and queued for a core since they began."""

    ran_s: float
    queued_s: float

    def __add__(self, other: "ThreadTime") -> "ThreadTime":
        return ThreadTime(self.ran_s + other.ran_s, self.queued_s + other.queued_s)

    def __sub__(self, other: "ThreadTime") -> "ThreadTime":
        return ThreadTime(self.ran_s - other.ran_s, self.queued_s - other.queued_s)

    @property
    def busy_s(self) -> float:
        """Seconds in which there was work."""
        return self.ran_s + self.queued_s


NONE = ThreadTime(0.0, 0.0)


def thread_times(pid: int) -> dict[int, ThreadTime]:
    """The times of every thread of a process, by its id; empty where the kernel tells nothing."""
    found = {}
    for task in Path(f"/proc/{pid}/task").glob("*/schedstat"):
        try:
            ran_ns, queued_ns, _ = map(int, task.read_text(encoding="ascii").split())
        except OSError:  # it ended while we looked
            continue
        found[int(task.parent.name)] = ThreadTime(ran_ns / 1e9, queued_ns / 1e9)
    return found


def process_time(pid: int) -> ThreadTime:
    """The times of all threads of a process together."""
    return sum(thread_times(pid).values(), NONE)


def busiest(before: dict[int, ThreadTime], after: dict[int, ThreadTime]) -> ThreadTime:
    """What the thread with most to do did between two looks: in a stage, the tensor thread."""
    spent = [time - before.get(thread, NONE) for thread, time in after.items()]
    return max(spent, key=lambda time: time.ran_s, default=NONE)
