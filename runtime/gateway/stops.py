"""Stop strings in a text that comes in pieces: nothing behind one gets out, nor a part of one."""

from collections.abc import Sequence


class StopScanner:
    """Gives out text that no stop string can claim any more.

    The stop string that is complete first ends the text, however the text was cut in pieces; it is
    a part of it only where it is to be shown.
    """

    def __init__(self, stops: Sequence[str], *, shows_stop: bool = False) -> None:
        self._stops = tuple(stops)
        self._shows_stop = shows_stop
        self._held = ""
        self.is_stopped = False

    def push(self, text: str) -> str:
        """Take a piece of text; return what is certain to stand before any stop string."""
        if self.is_stopped:
            return ""
        self._held += text
        places = ((self._held.find(stop), len(stop)) for stop in self._stops)
        found = [(at + length, at) for at, length in places if at >= 0]
        if found:
            self.is_stopped = True
            end, at = min(found)
            return self._held[: end if self._shows_stop else at]
        keep = self._num_possible()
        certain, self._held = self._held[: len(self._held) - keep], self._held[-keep:] * (keep > 0)
        return certain

    def flush(self) -> str:
        """The text has ended: what was held back is no stop string after all."""
        held, self._held = self._held, ""
        return "" if self.is_stopped else held

    def _num_possible(self) -> int:
        """Length of the longest end of the held text with which a stop string begins."""
        longest = max((len(stop) for stop in self._stops), default=1) - 1
        for length in range(min(longest, len(self._held)), 0, -1):
            if any(stop.startswith(self._held[-length:]) for stop in self._stops):
                return length
        return 0
