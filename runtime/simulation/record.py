"""What a simulation notes while it runs: steps by stage, epochs, faults, and each request's times.

Bars of the timeline are merged as they come, so that an hour of steps is a few thousand of them.
"""

from dataclasses import dataclass, field

from actors.messages import PlanChanged

BARS_PER_ROW = 2000


@dataclass(slots=True)
class Bar:
    """Steps close enough together to be drawn as one; `busy_s` of it was work."""

    start_s: float
    end_s: float
    busy_s: float


@dataclass(slots=True)
class Row:
    """What one worker did."""

    bars: list[Bar] = field(default_factory=list)
    num_steps: int = 0
    num_tokens: int = 0
    busy_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Mark:
    """Something that happened, for the timeline: an epoch or a fault."""

    at_s: float
    kind: str
    text: str


@dataclass(frozen=True, slots=True)
class Place:
    """Which stage a worker hosted last, "pipeline.stage", and where."""

    stage: str
    device: str
    start: int
    end: int


class Record:
    """All of it; `span_s` is about how long the simulation will be, for the merging of bars."""

    def __init__(self, span_s: float) -> None:
        self._near_s = span_s / BARS_PER_ROW
        self.rows: dict[str, Row] = {}
        self.marks: list[Mark] = []
        self.places: dict[str, Place] = {}
        self._told: dict[str, tuple[int, str, str]] = {}

    def on_step(self, worker: str, start_s: float, end_s: float, num_tokens: int) -> None:
        """A step began and will end."""
        row = self.rows.get(worker)
        if row is None:
            row = self.rows[worker] = Row()
        row.num_steps += 1
        row.num_tokens += num_tokens
        row.busy_s += end_s - start_s
        if row.bars and start_s - row.bars[-1].start_s < self._near_s:
            row.bars[-1].end_s = end_s
            row.bars[-1].busy_s += end_s - start_s
        else:
            row.bars.append(Bar(start_s, end_s, end_s - start_s))

    def on_plan(self, at_s: float, plan: PlanChanged) -> None:
        """The coordinator told a plan; what is new in it is marked."""
        for pipeline in plan.pipelines:
            before = self._told.get(pipeline.pipeline)
            told = (pipeline.epoch, pipeline.state, pipeline.serves)
            self._told[pipeline.pipeline] = told
            if told != before:
                text = f"pipeline {pipeline.pipeline} epoch {pipeline.epoch} {pipeline.state}"
                if pipeline.serves != "both" or (before is not None and before[2] != "both"):
                    text += f" serves {pipeline.serves}"
                self.mark(at_s, "plan", text)
            for stage in pipeline.stages:
                self.rows.setdefault(stage.worker, Row())
                place = f"{pipeline.pipeline}.{stage.stage}"
                self.places[stage.worker] = Place(place, stage.device, stage.start, stage.end)

    def mark(self, at_s: float, kind: str, text: str) -> None:
        """Something happened."""
        self.marks.append(Mark(at_s, kind, text))
