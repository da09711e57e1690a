"""How long requests wait where a pipeline is busy: one formula for all its queues.

The one idea: prompts queue for the pipeline's steps (one server), sequences for its KV memory
(many servers), and one approximation covers both. In GI/G/N with utilisation `r`, mean service `S`
and squared coefficients of variation `ca2` of arrivals and `cs2` of service,

    part that waits  C(N / z, r),  z = (1 + ca2) / 2
    mean wait        C * S / (N (1 - r)) * (ca2 + cs2) / 2

where `C` is Erlang's formula for delay, for a number of servers that need not be whole; arrivals
more even than Poisson count as more servers (Fredericks, Congestion in blocking systems, Bell
System Technical Journal 1980). The mean is that of Allen and Cunneen (Allen, Probability,
Statistics and Queueing Theory, 1990), exact for M/M/N and M/G/1. Of those that wait, the wait is
taken as exponential.
"""

from dataclasses import dataclass
from math import exp, inf, lgamma, log

import numpy as np
import numpy.typing as npt
from scipy.special import gammaincc

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Wait:
    """A wait: the part of requests that wait at all, and the mean over all, in seconds."""

    part: float = 0.0
    mean_s: float = 0.0

    def within(self, limit_s: Array) -> Array:
        """Probability that it is no longer than each limit; 0 where a limit is below 0."""
        if self.part <= 0.0 or self.mean_s <= 0.0:
            kept: Array = (limit_s >= 0).astype(np.float64)
            return kept
        if self.mean_s == inf:
            return np.zeros_like(limit_s)
        late = self.part * np.exp(-np.maximum(limit_s, 0.0) * self.part / self.mean_s)
        return np.where(limit_s >= 0, 1.0 - late, 0.0)

    def then(self, other: "Wait") -> "Wait":
        """This wait and another behind it, taken as independent."""
        part = 1.0 - (1.0 - self.part) * (1.0 - other.part)
        return Wait(part, self.mean_s + other.mean_s)


def queue_wait(
    utilisation: float,
    *,
    service_s: float,
    num_servers: float = 1.0,
    arrival_cv2: float = 1.0,
    service_cv2: float = 1.0,
) -> Wait:
    """The wait in a queue; infinite from a utilisation of 1 on.

    Args:
        utilisation: part of the servers that is busy.
        service_s: mean seconds that one request keeps one server.
        num_servers: requests served at once.
        arrival_cv2: squared coefficient of variation of the times between arrivals; 1 is Poisson.
        service_cv2: that of the seconds of service.

    Example:
        >>> round(queue_wait(0.5, service_s=1.0).mean_s, 3)  # M/M/1
        1.0
    """
    if utilisation <= 0.0:
        return Wait()
    if utilisation >= 1.0:
        return Wait(1.0, inf)
    part = delayed_part(num_servers * 2.0 / (1.0 + arrival_cv2), utilisation)
    mean_s = part * service_s / (num_servers * (1.0 - utilisation))
    return Wait(part, mean_s * (arrival_cv2 + service_cv2) / 2.0)


def delayed_part(num_servers: float, utilisation: float) -> float:
    """Erlang's formula: the part of requests that find all servers busy, below a utilisation of 1.

    Example:
        >>> round(delayed_part(2, 0.5), 4)
        0.3333
    """
    offered = utilisation * num_servers
    full = exp(num_servers * log(offered) - offered - lgamma(num_servers + 1.0))
    blocked = min(1.0, full / float(gammaincc(num_servers + 1.0, offered)))
    return blocked / (1.0 - utilisation * (1.0 - blocked))
