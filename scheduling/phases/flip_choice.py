"""Whether a flip of phases is worth it: what staying has lost against what flipping costs.

The one idea: the requests that are late because phases stay as they are add up, and a flip is due
once they are as many as it costs. That is the work function's rule for two states: it loses at most
three times what the best sequence of flips loses that knew the future, and load that alternates
faster than a flip pays flips nothing (Borodin, Linial, Saks, An optimal on-line algorithm for
metrical task systems, JACM 1992). After a flip, going back must first make up for it.

A gain counts for what it is at least, given how few requests it was seen on.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, sqrt
from statistics import fmean, variance

from scheduling.phases.bound import Phases

HAND_OFF_S = 1.0
"""What the hand-off of one pipeline's requests takes, until one was measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FlipPolicy:
    """When to flip.

    Attributes:
        min_gain: part of the requests that a flip must bring in time, at least.
        confidence: standard errors by which a gain must exceed that.
        max_step_s: seconds that one look counts for, at most: after a silence nothing is known.
    """

    min_gain: float = 0.02
    confidence: float = 2.0
    max_step_s: float = 30.0

    def __post_init__(self) -> None:
        for name in ("min_gain", "confidence", "max_step_s"):
            if not 0 <= getattr(self, name) < inf:
                raise ValueError(f"flips: expected {name} of 0 or more, got {getattr(self, name)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class FlipCost:
    """What a flip takes.

    Attributes:
        num_flips: pipelines that change their phase.
        seconds: until all have.
        late_requests: requests that are late for it.
    """

    num_flips: int
    seconds: float
    late_requests: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Gain:
    """How much more of the requests would be in time.

    Attributes:
        part: of all requests, as it is expected.
        error: its standard error, by how much parts of the sample differ.
    """

    part: float
    error: float = 0.0

    def at_least(self, confidence: float) -> float:
        """The part after so many standard errors are taken off."""
        return self.part - confidence * self.error


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What is to be done.

    Attributes:
        is_due: whether to flip now.
        reason: why, or why not, with the numbers.
        lost: requests late so far because nothing was flipped.
    """

    is_due: bool
    reason: str
    lost: float


def gain_of(whole: float, parts: Sequence[float]) -> Gain:
    """A gain on all of a sample, with its error from the gains on even parts of it.

    The mean of `k` parts varies by the variance between them over `k`.
    """
    if len(parts) < 2:
        return Gain(part=whole, error=inf)
    around = variance(parts, fmean(parts))
    return Gain(part=whole, error=sqrt(around / len(parts)))


def cost_of(
    old: Phases,
    new: Phases,
    *,
    rate: float,
    hand_off_s: float = HAND_OFF_S,
    at_once: int = 1,
) -> FlipCost:
    """What it takes to go from some phases to others.

    A pipeline that flips takes no new request while it hands off those that it may not keep, so its
    share of what comes meanwhile is late; `at_once` of them flip side by side.

    Raises:
        ValueError: another number of phases, or none flips at once.
    """
    if len(old) != len(new) or at_once < 1:
        raise ValueError(
            f"flips: expected {len(old)} phases and 1 or more at once, got {len(new)} and {at_once}"
        )
    num_flips = sum(a != b for a, b in zip(old, new, strict=True))
    seconds = -(-num_flips // at_once) * hand_off_s
    late = rate * hand_off_s * num_flips / max(1, len(old))
    return FlipCost(num_flips=num_flips, seconds=seconds, late_requests=late)


class FlipJudge:
    """Adds up what staying loses; one for each set of pipelines."""

    def __init__(self, policy: FlipPolicy | None = None, *, lost: float = -inf) -> None:
        """With nothing lost yet, as after a flip; or with 0, where none is to be made up for."""
        self._policy = policy or FlipPolicy()
        self._lost = lost
        self._last_s: float | None = None

    def look(self, at_s: float, gain: Gain, rate: float, cost: FlipCost) -> Verdict:
        """Count the time since the last look, and say whether to flip now.

        Args:
            at_s: now; never before the last look.
            gain: of the best phases over those that serve; negative where these are better.
            rate: requests a second.
            cost: of going there.
        """
        policy = self._policy
        elapsed_s = 0.0 if self._last_s is None else min(at_s - self._last_s, policy.max_step_s)
        self._last_s = at_s
        sure = gain.at_least(policy.confidence) if gain.part > 0 else gain.part
        counted = sure if gain.part <= 0 or sure > 0 else 0.0
        limit = cost.late_requests
        self._lost = min(max(self._lost, -limit) + counted * rate * elapsed_s, limit)
        return self._verdict(gain, sure, cost)

    def flipped(self) -> None:
        """Phases are others from now on: going back has to make up for it first."""
        self._lost = -inf

    def _verdict(self, gain: Gain, sure: float, cost: FlipCost) -> Verdict:
        policy, lost = self._policy, self._lost
        told = f"{gain.part:+.1%} of the requests in time (error {gain.error:.1%})"
        if cost.num_flips == 0:
            return Verdict(is_due=False, reason="no better phases were found", lost=lost)
        if sure < policy.min_gain or gain.part <= 0:
            reason = f"{told}, which is less than {policy.min_gain:.1%} for certain"
            return Verdict(is_due=False, reason=reason, lost=lost)
        if lost < cost.late_requests * (1 - 1e-9):
            reason = (
                f"{told}; staying has lost {max(0.0, lost):.1f} requests, and flipping "
                f"{cost.num_flips} pipelines costs {cost.late_requests:.1f}"
            )
            return Verdict(is_due=False, reason=reason, lost=lost)
        reason = (
            f"{told}; staying has lost the {cost.late_requests:.1f} requests that flipping "
            f"{cost.num_flips} pipelines costs"
        )
        return Verdict(is_due=True, reason=reason, lost=lost)
