"""The bounds and clocks of an endpoint, whatever carries its bytes.

The windows are what we grant to each peer on each lane; a peer grants its own to us. The defaults
suit processes of one machine or one rack. Over slow links a frame must fit through within
`peer_timeout_s`, since nothing else is heard of a peer while a large frame is under way.
"""

from dataclasses import dataclass, fields

MAX_BUFFERS = 1024
"""Buffers of one frame."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointSettings:
    """Bounds and clocks of an endpoint.

    Args:
        window_frames: frames of a peer and lane that may be under way or unreleased here.
        window_bytes: their bytes; the last frame of a window may go over.
        queue_frames: frames that wait for a peer's credit, per peer and lane.
        queue_bytes: their bytes.
        max_frame_bytes: head and buffers of one frame, sent or received.
        heartbeat_s: how often a silent connection is asked whether it lives.
        peer_timeout_s: silence after which a peer is gone.
        handshake_timeout_s: how long a stranger may take to introduce itself.
        max_peers: peers connected at a time.
        max_strangers: keys that are not known yet and may be about to prove themselves.
    """

    window_frames: int = 1024
    window_bytes: int = 1 << 26
    queue_frames: int = 4096
    queue_bytes: int = 1 << 28
    max_frame_bytes: int = 1 << 27
    heartbeat_s: float = 0.1
    peer_timeout_s: float = 0.8
    handshake_timeout_s: float = 5.0
    max_peers: int = 1024
    max_strangers: int = 256

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not value > 0:
                raise ValueError(f"{field.name}: expected more than 0, got {value!r}")
