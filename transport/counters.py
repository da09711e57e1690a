"""What an endpoint counts while it runs; a snapshot of it is its `EndpointStatistics`."""

from collections.abc import Iterable
from dataclasses import dataclass

from transport.credit import SendWindow
from transport.endpoint import EndpointStatistics


@dataclass(slots=True)
class Counters:
    """Running totals of one endpoint."""

    num_frames_sent: int = 0
    num_frames_received: int = 0
    num_bytes_sent: int = 0
    num_bytes_received: int = 0
    num_frames_dropped: int = 0
    num_malformed: int = 0

    def count_sent(self, num_bytes: int) -> None:
        """One frame was handed to the wire."""
        self.num_frames_sent += 1
        self.num_bytes_sent += num_bytes

    def count_received(self, num_bytes: int) -> None:
        """One frame came from a peer."""
        self.num_frames_received += 1
        self.num_bytes_received += num_bytes

    def snapshot(self, num_peers: int, windows: Iterable[SendWindow]) -> EndpointStatistics:
        """The totals, and what waits in the send windows now."""
        waiting = [(window.num_queued, window.num_queued_bytes) for window in windows]
        return EndpointStatistics(
            num_peers=num_peers,
            num_frames_sent=self.num_frames_sent,
            num_frames_received=self.num_frames_received,
            num_bytes_sent=self.num_bytes_sent,
            num_bytes_received=self.num_bytes_received,
            num_frames_queued=sum(frames for frames, _ in waiting),
            num_bytes_queued=sum(num_bytes for _, num_bytes in waiting),
            num_frames_dropped=self.num_frames_dropped,
            num_malformed=self.num_malformed,
        )
