"""What lies between two places, and how long bytes take over it."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkRate:
    """What lies between two places."""

    bytes_per_s: float
    latency_s: float


def all_reduce_time_s(link: LinkRate, degree: int, num_bytes: float) -> float:
    """Seconds of an all-reduce by a ring: each sends and gets `2 (t - 1) / t` of the bytes.

    Source: Patarasuk, Yuan, Bandwidth optimal all-reduce algorithms, JPDC 2009.
    """
    if degree == 1:
        return 0.0
    steps = 2 * (degree - 1)
    return steps * (link.latency_s + num_bytes / degree / link.bytes_per_s)


def transfer_time_s(link: LinkRate, num_bytes: float) -> float:
    """Seconds until the last of some bytes has arrived, on a link that carries nothing else."""
    return link.latency_s + num_bytes / link.bytes_per_s
