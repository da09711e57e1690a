"""A line whose traffic goes one after another, whoever sends it.

The one idea: what goes over a line occupies it for its bytes, in the order in which it is ready to
go; only then comes the latency. Each way is a line of its own, as with full duplex. It never knows
what is sent.
"""

from dataclasses import dataclass


@dataclass(slots=True)
class Line:
    """One way between two places; `free_at` is the loop's time when all before has left."""

    free_at: float = 0.0

    def carry(self, now: float, seconds: float) -> float:
        """Take what is ready now and occupies the line for so long; returns when it has left."""
        self.free_at = max(now, self.free_at) + seconds
        return self.free_at


class Lines:
    """The lines of a cluster, each made when it is first asked for."""

    def __init__(self) -> None:
        self._lines: dict[tuple[str, str], Line] = {}

    def between(self, start: str, end: str) -> Line:
        """The line from one place to another; the way back is another one."""
        return self._lines.setdefault((start, end), Line())
