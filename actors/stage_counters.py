"""What a stage counts of itself: steps, the time it had work, the bytes it gave on.

Told the time by whoever counts; it never knows a step's content.
"""

from dataclasses import dataclass


@dataclass(slots=True)
class StageCounters:
    """Counts since `began_at`; times in seconds, of the loop's clock."""

    began_at: float
    num_steps: int = 0
    num_queued: int = 0
    sent_bytes: int = 0
    resident_s: float = 0.0
    _busy_s: float = 0.0
    _busy_since: float = 0.0

    def step_began(self, now: float) -> None:
        """A step was given to the device."""
        if not self.num_queued:
            self._busy_since = now
        self.num_queued += 1

    def step_ended(self, began: float, now: float) -> None:
        """The step that was given to it at `began` is done, or failed."""
        self.num_queued -= 1
        self.num_steps += 1
        self.resident_s += now - began
        if not self.num_queued:
            self._busy_s += now - self._busy_since

    def busy_s(self, now: float) -> float:
        """For how long the device had at least one step."""
        return self._busy_s + (now - self._busy_since if self.num_queued else 0.0)

    def idle_s(self, now: float) -> float:
        """For how long it had none."""
        return max(0.0, now - self.began_at - self.busy_s(now))
