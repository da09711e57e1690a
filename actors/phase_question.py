"""Which phases would serve best what came: a question with all that it depends on, and its answer.

It is a blocking function of plain values, tens of milliseconds for 16 pipelines, so that the
decider (`rephasing`) can have it run off the event loop. The gain is told with its error, from even
parts of what came.
"""

from dataclasses import dataclass, replace

from scheduling.errors import SchedulingError
from scheduling.goal import Goal
from scheduling.live import LiveProblem, Situation
from scheduling.phases.bound import Phases
from scheduling.phases.choice import PhaseChoice, attained, choose_phases
from scheduling.phases.flip_choice import Gain, gain_of
from scheduling.phases.profiler import ObservedWorkload
from scheduling.phases.routing import Routing
from scheduling.phases.table import PhaseTable, table_of
from scheduling.phases.transfer import KvTransport

NUM_PARTS = 4
"""Even parts of the window on which a gain is compared with itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PhasedService:
    """What serves now.

    Attributes:
        names: the pipelines', in the order of the situation's layout.
        phases: theirs.
        situation: devices, links, model and limits; its workload does not count.
    """

    names: tuple[str, ...]
    phases: Phases
    situation: Situation

    def __post_init__(self) -> None:
        if not len(self.names) == len(self.phases) == len(self.situation.layout):
            raise ValueError(
                f"phases: expected a name and a phase for each of {len(self.situation.layout)} "
                f"pipelines, got {len(self.names)} names and {len(self.phases)} phases"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """All that the choice of phases depends on."""

    service: PhasedService
    observed: ObservedWorkload
    goal: Goal
    transport: KvTransport


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What was chosen for a question, or why nothing was.

    Attributes:
        question: it.
        now: what the phases that serve attain, with the best routing for them.
        choice: the best phases.
        gain: of these over those that serve.
        failure: why there are none of these; empty if there are.
    """

    question: Question
    now: Routing | None = None
    choice: PhaseChoice | None = None
    gain: Gain | None = None
    failure: str = ""


def answer(question: Question) -> Found:
    """Choose phases for what came; blocking, tens of milliseconds for 16 pipelines."""
    service = question.service
    try:
        table = _table(question, (0, 1))
        now = attained(table, service.phases)
        choice = choose_phases(table, start=service.phases)
        if choice.phases == service.phases:
            return Found(question=question, now=now, choice=choice, gain=Gain(part=0.0))
        gains = [_gain_on(question, choice.phases, k) for k in range(NUM_PARTS)]
    except (SchedulingError, ValueError) as error:
        return Found(question=question, failure=f"no phases can be chosen: {error}")
    gain = gain_of(choice.attainment - now.attainment, gains)
    return Found(question=question, now=now, choice=choice, gain=gain)


def _gain_on(question: Question, phases: Phases, number: int) -> float:
    """What phases gain over those that serve, on one of the even parts."""
    table = _table(question, (number, NUM_PARTS))
    now = attained(table, question.service.phases).attainment
    return attained(table, phases).attainment - now


def _table(question: Question, part: tuple[int, int]) -> PhaseTable:
    workload = question.observed.workload(part=part)
    live = LiveProblem(replace(question.service.situation, workload=workload))
    return table_of(
        replace(live.problem, goal=question.goal),
        live.placement(question.service.situation.layout),
        transport=question.transport,
        arrival_cv2=question.observed.arrival_cv2,
    )
