"""Which pipelines should serve which phase, for the requests that come now. Pure.

It stands beside the coordinator as `replanning` does, and never moves anything itself:

    rephaser.take(message, now)                     # WorkloadSeen of any router
    question = rephaser.question(service, now)      # None while there is nothing to ask
    found = await compute(partial(answer, question))  # tens of milliseconds: off the event loop
    rephasing = rephaser.decide(found, now)
    if rephasing.is_due: flip(rephasing.phases, rephasing.routes), then rephaser.flipped()

The one idea: what came in a window is the workload, a change of it empties the window, and phases
are chosen anew once enough came. The gain is told with its error, from even parts of the window.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from actors.messages import WorkloadSeen
from actors.phase_question import Found, PhasedService, Question
from scheduling.goal import Goal
from scheduling.phases.choice import PhaseChoice
from scheduling.phases.flip_choice import (
    HAND_OFF_S,
    FlipCost,
    FlipJudge,
    FlipPolicy,
    Gain,
    Verdict,
    cost_of,
)
from scheduling.phases.profiler import ObservedWorkload, Profiler, Seen
from scheduling.phases.routing import Routing
from scheduling.phases.shift import Shift, ShiftDetector, ShiftRule
from scheduling.phases.transfer import KvTransport
from scheduling.placement import Phase

LOOK_S = 5.0
MIN_FINISHED = 64
"""Requests that must have ended in the window before phases are chosen for it."""
Shares = Mapping[tuple[str, str], float]
"""Part of the requests for each prefill and decode pipeline; a pipeline that does both has itself
as both."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rephasing:
    """What is to be done, with its reasons.

    Attributes:
        is_due: whether to flip now.
        phases: of each pipeline by name; those that serve where nothing better was found.
        routes: where requests go under `phases`.
        attainment: part of the requests in time under `phases`.
        attainment_now: likewise under the phases that serve.
        gain: of the one over the other, with its error.
        cost: of flipping.
        reason: why, or why not.
    """

    is_due: bool
    phases: Mapping[str, Phase]
    routes: Shares
    attainment: float
    attainment_now: float
    gain: Gain
    cost: FlipCost
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RephasingSettings:
    """How phases are chosen.

    Attributes:
        goal: the latencies to keep; its measure is "slo".
        transport: how KV travels between pipelines.
        policy: when a flip is worth it.
        rule: when requests count as changed.
        window_s: seconds of requests to choose for.
        hand_off_s: what flipping one pipeline takes.
    """

    goal: Goal
    transport: KvTransport = field(default_factory=KvTransport)
    policy: FlipPolicy = field(default_factory=FlipPolicy)
    rule: ShiftRule = field(default_factory=ShiftRule)
    window_s: float = 300.0
    hand_off_s: float = HAND_OFF_S

    def __post_init__(self) -> None:
        if self.goal.measure != "slo":
            raise ValueError(
                f"rephasing: expected a goal 'slo' with ttft or tpot, got {self.goal.measure!r}"
            )


class Rephaser:
    """Keeps what routers tell, asks when it is time, and judges the answers."""

    def __init__(self, settings: RephasingSettings) -> None:
        """With nothing seen yet."""
        self._settings = settings
        self._profiler = Profiler(window_s=settings.window_s)
        self._detector = ShiftDetector(settings.rule)
        self._judge = FlipJudge(settings.policy)
        self._asked_at: float | None = None
        self._shift: Shift | None = None
        self._last: Rephasing | None = None
        self._observed: ObservedWorkload | None = None
        self._state = "no requests were seen yet"

    def take(self, message: WorkloadSeen, at_s: float) -> Shift | None:
        """News of a router; whether requests have become others with it."""
        seen = _seen(message)
        shift = self._detector.take(seen)
        if shift is not None:
            self._shift, self._asked_at = shift, None
            self._profiler.forget()
        self._profiler.add(at_s, message.router, seen)
        return shift

    def question(self, service: PhasedService, at_s: float) -> Question | None:
        """What to ask now: after a change, and every `LOOK_S`; None where it is not time."""
        if self._asked_at is not None and at_s - self._asked_at < LOOK_S:
            return None
        observed = self._observed = self._profiler.observed(at_s)
        if not observed.is_enough or observed.num_finished < MIN_FINISHED:
            self._state = (
                f"{observed.num_finished} requests ended since the last change: "
                f"{MIN_FINISHED} are waited for"
            )
            return None
        self._asked_at = at_s
        return Question(
            service=service,
            observed=observed,
            goal=self._settings.goal,
            transport=self._settings.transport,
        )

    def decide(self, found: Found, at_s: float) -> Rephasing | None:
        """Judge an answer; None where nothing could be chosen, which `report` tells."""
        if found.choice is None or found.now is None or found.gain is None:
            self._state, self._last = found.failure, None
            return None
        service = found.question.service
        cost = cost_of(
            service.phases,
            found.choice.phases,
            rate=found.question.observed.rate,
            hand_off_s=self._settings.hand_off_s,
        )
        verdict = self._judge.look(at_s, found.gain, found.question.observed.rate, cost)
        self._last = _rephasing(service.names, found.now, found.choice, found.gain, cost, verdict)
        self._state = verdict.reason
        return self._last

    def flipped(self) -> None:
        """Phases are others from now on, by this advice or by an operator's."""
        self._judge.flipped()
        self._last, self._asked_at = None, None
        self._state = "phases have just changed"

    def changed(self) -> None:
        """Pipelines are others from now on: what staying has lost with those before counts no more.

        What was seen of requests does; it is asked anew at once, and no flip is to be made up for.
        """
        self._judge = FlipJudge(self._settings.policy, lost=0.0)
        self._last, self._asked_at = None, None

    def report(self) -> dict[str, Any]:
        """What was seen and chosen, as JSON would hold it."""
        observed, last, shift = self._observed, self._last, self._shift
        return {
            "state": self._state,
            "observed": None if observed is None else _told_workload(observed),
            "last_shift": None
            if shift is None
            else {"stream": shift.stream, "is_up": shift.is_up, "num_values": shift.num_values},
            "proposed": None if last is None else _told(last),
        }


def _seen(message: WorkloadSeen) -> Seen:
    pairs = list(zip(message.prompts, message.outputs, strict=False))
    return Seen(
        elapsed_s=message.elapsed_s,
        num_arrived=message.num_arrived,
        gaps_s2=message.gaps_s2,
        num_finished=message.num_finished,
        prompts=tuple(max(1, prompt) for prompt, _ in pairs),
        outputs=tuple(max(1, output) for _, output in pairs),
        prefill_queue_s=message.prefill_queue_s,
        decode_queue_s=message.decode_queue_s,
    )


def workload_seen(router: str, seen: Seen) -> WorkloadSeen:
    """A tally's news as a router's message."""
    return WorkloadSeen(
        router=router,
        elapsed_s=seen.elapsed_s,
        num_arrived=seen.num_arrived,
        gaps_s2=seen.gaps_s2,
        num_finished=seen.num_finished,
        prompts=seen.prompts,
        outputs=seen.outputs,
        prefill_queue_s=seen.prefill_queue_s,
        decode_queue_s=seen.decode_queue_s,
    )


def _rephasing(
    names: tuple[str, ...],
    now: Routing,
    choice: PhaseChoice,
    gain: Gain,
    cost: FlipCost,
    verdict: Verdict,
) -> Rephasing:
    return Rephasing(
        is_due=verdict.is_due,
        phases=dict(zip(names, choice.phases, strict=True)),
        routes=_shares(names, choice.routing),
        attainment=choice.attainment,
        attainment_now=now.attainment,
        gain=gain,
        cost=cost,
        reason=verdict.reason,
    )


def _shares(names: tuple[str, ...], routing: Routing) -> Shares:
    return {(names[r.prefill], names[r.decode]): r.share for r in routing.routes}


def _told_workload(observed: ObservedWorkload) -> dict[str, Any]:
    num = max(1, len(observed.prompts))
    return {
        "window_s": observed.window_s,
        "requests_per_s": observed.rate,
        "arrival_cv2": observed.arrival_cv2,
        "num_finished": observed.num_finished,
        "mean_prompt": sum(observed.prompts) / num,
        "mean_output": sum(observed.outputs) / num,
        "prefill_queue_s": observed.prefill_queue_s,
        "decode_queue_s": observed.decode_queue_s,
    }


def _told(found: Rephasing) -> dict[str, Any]:
    return {
        "is_due": found.is_due,
        "phases": dict(found.phases),
        "routes": [[one, other, share] for (one, other), share in found.routes.items()],
        "attainment": found.attainment,
        "attainment_now": found.attainment_now,
        "gain": found.gain.part,
        "gain_error": found.gain.error,
        "flips": found.cost.num_flips,
        "cost_requests": found.cost.late_requests,
        "cost_s": found.cost.seconds,
        "reason": found.reason,
    }
