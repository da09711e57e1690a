"""What can be done to the links of a process on purpose, as values: cut, or slow.

A disturbance names its peers by address, so that it holds for every life of the process that
listens there. It has an end from the beginning, since whoever ordered it may be out of reach by
then: a cut that only an order could mend might cut off the order.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

MAX_FOR_S = 3600.0
MAX_LATENCY_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Disturbance:
    """What happens to the links with some peers, and for how long.

    Args:
        name: what it is taken back by.
        peers: the addresses that peers listen at.
        for_s: when it ends by itself, in seconds from its beginning.
        is_cut: let nothing through, either way, and leave the connections as they are.
        latency_s: how much later a frame goes out, in seconds.
        bytes_per_s: how fast frames go out to one peer, in bytes per second.

    Raises:
        ValueError: it disturbs nobody or nothing, or a number is out of bounds.
    """

    name: str
    peers: frozenset[str]
    for_s: float
    is_cut: bool = False
    latency_s: float = 0.0
    bytes_per_s: float = math.inf

    def __post_init__(self) -> None:
        if not self.peers:
            raise ValueError("peers: expected at least one address, got none")
        if not 0 < self.for_s <= MAX_FOR_S:
            raise ValueError(f"for_s: expected above 0 and to {MAX_FOR_S:g}, got {self.for_s!r}")
        if not 0 <= self.latency_s <= MAX_LATENCY_S:
            raise ValueError(f"latency_s: expected 0 to {MAX_LATENCY_S:g}, got {self.latency_s!r}")
        if not self.bytes_per_s > 0:
            raise ValueError(f"bytes_per_s: expected above 0, got {self.bytes_per_s!r}")
        if not (self.is_cut or self.latency_s or self.bytes_per_s < math.inf):
            raise ValueError(f"disturbance {self.name!r} neither cuts nor slows")


@dataclass(frozen=True, slots=True)
class Pace:
    """How frames go out to one peer: all that disturbs it at a time, in one."""

    is_cut: bool = False
    latency_s: float = 0.0
    bytes_per_s: float = math.inf


UNDISTURBED = Pace()


def pace_towards(address: str, disturbances: Iterable[Disturbance]) -> Pace:
    """The worst of what disturbs the link with a peer.

    Example:
        >>> slow = Disturbance(name="a", peers=frozenset({"x"}), for_s=1.0, latency_s=0.5)
        >>> pace_towards("x", [slow]).latency_s, pace_towards("y", [slow]) is UNDISTURBED
        (0.5, True)
    """
    found = [d for d in disturbances if address in d.peers]
    if not found:
        return UNDISTURBED
    return Pace(
        any(d.is_cut for d in found),
        max(d.latency_s for d in found),
        min(d.bytes_per_s for d in found),
    )
