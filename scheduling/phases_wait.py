"""How long requests wait where a pipeline is busy: one formula for all its queues.

The one idea: prompts queue for the pipeline's steps (one server), sequences for its KV memory
(many servers), and one approximation covers both. The mean wait in GI/G/N is

    W = r^(sqrt(2 (N + 1)) - 1) / (N (1 - r)) * S * (ca2 + cs2) / 2

for utilisation `r`, mean service `S` and the squared coefficients of variation of arrivals and of
service (Sakasegawa, An approximation formula Lq, Annals ISM 1977; exact for M/G/1). The first
factor's power is about the part of requests that wait at all; of those the wait is taken as
exponential.
"""

from dataclasses import dataclass
from math import inf, sqrt

import numpy as np
import numpy.typing as npt

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
    part = utilisation ** (sqrt(2.0 * (num_servers + 1.0)) - 1.0)
    mean = part / (num_servers * (1.0 - utilisation)) * service_s
    return Wait(part, mean * (arrival_cv2 + service_cv2) / 2.0)
