"""What happens to a service, and when: a value drawn from a seed, to be printed and cut down.

The one idea: chance is spent before the service runs. A schedule names no process, since which are
there depends on what happened before; it holds a number, and whoever plays it picks by that number
among those that are there. So a schedule that is shortened is still a schedule.
"""

import random
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TypeAlias

from scheduling.placement import Phase

NUM_LAYERS = 6
BLOCK_TOKENS = 4
MAX_PROMPT, MAX_OUTPUT = 40, 60
MAX_MODEL_LEN = MAX_PROMPT + MAX_OUTPUT + 4
MIN_IN_FLIGHT = 4
"""So many requests must be under way when a fault strikes, or the schedule shows nothing."""
RECOVERY_TIMEOUT_S = 60.0
NOTICED_S = 0.8
"""Silence after which processes take each other for lost."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """A service: devices of each node, stages of each pipeline, and the wire between processes.

    `phases` are what the pipelines serve at first; all of them both if it is empty.
    """

    nodes: tuple[int, ...]
    pipelines: tuple[int, ...]
    num_spares: int
    num_blocks: int
    max_running: int
    max_step_tokens: int
    log_bytes: int
    max_delay_s: float
    loss: float
    duplication: float
    start_s: float
    phases: tuple[Phase, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """A request arrives; `num_common` tokens of its prompt are those of all of its `family`."""

    at_s: float
    name: str
    num_prompt: int
    num_output: int
    temperature: float
    seed: int
    family: int = 0
    num_common: int = 0

    def __str__(self) -> str:
        how = f"seed={self.seed}" if self.temperature else "greedy"
        begins = f" common={self.num_common} of={self.family}" if self.num_common else ""
        return f"ask {self.name} prompt={self.num_prompt} output={self.num_output} {how}{begins}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """Something is done to the service; `for_s` until it is undone, if it can be.

    Attributes:
        what: which kind.
        pick: chooses among those that it can be done to.
        layers: for a swap by hand, the split.
        num_stages: for a swap by number, how many.
    """

    at_s: float
    what: str
    pick: int
    for_s: float = 0.0
    layers: str = ""
    num_stages: int = 0

    @property
    def loses(self) -> bool:
        """Whether something that serves may be lost by it."""
        if self.what in ("pause", "part", "hold", "late"):
            return self.for_s >= NOTICED_S / 2
        return self.what.startswith("kill") or self.what == "drain"

    def __str__(self) -> str:
        split = self.layers or (f"stages={self.num_stages}" if self.num_stages else "")
        span = f"for {self.for_s:.3f} s" if self.for_s else ""
        return " ".join(part for part in (self.what, split, f"pick={self.pick}", span) if part)


Event: TypeAlias = Ask | Fault


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """A service and what happens to it, in order of time."""

    seed: int
    shape: Shape
    events: tuple[Event, ...]

    @property
    def faults(self) -> tuple[Fault, ...]:
        """What is done to the service."""
        return tuple(event for event in self.events if isinstance(event, Fault))

    @property
    def longest_outage_s(self) -> float:
        """How long capacity may be gone: faults whose times overlap count as one."""
        longest = begun = over = 0.0
        for fault in self.faults:
            if fault.at_s > over + START_AGAIN_S:
                begun = fault.at_s
            over = max(over, fault.at_s + fault.for_s)
            longest = max(longest, over - begun)
        return longest

    def __str__(self) -> str:
        events = [f"{event.at_s:9.3f} s  {event}" for event in self.events]
        return "\n".join([f"seed {self.seed}: {self.shape}", *events])


START_AGAIN_S = 10.0
"""Within this after a fault is undone, all serve again."""

COMMON = ("swap", "swap", "swap", "kill stage", "kill stage", "kill worker", "kill home")
RARER = ("kill node", "kill coordinator", "kill gateway", "pause", "pause", "part", "part")


def schedule_of(seed: int, *, phased: bool = False) -> Schedule:
    """The schedule that a seed stands for; `phased` ones have pipelines that serve one phase."""
    rng = random.Random(f"phased schedule {seed}" if phased else f"schedule {seed}")
    shape = _phased(rng, _shape(rng)) if phased else _shape(rng)
    faults = _faults(rng, shape)
    asks = _in_families(_asks(rng, faults), random.Random(f"families {seed}"))
    events: list[Event] = [*asks, *faults]
    events.sort(key=lambda event: event.at_s)
    return Schedule(seed=seed, shape=shape, events=tuple(events))


def _shape(rng: random.Random) -> Shape:
    num_nodes = rng.choice((1, 2, 2, 3, 3, 4))
    pipelines = rng.choice(((1,), (2,), (2,), (3,), (3,), (4,), (1, 1), (2, 1), (2, 2), (1, 3)))
    return Shape(
        nodes=tuple(rng.randint(1, 2) for _ in range(num_nodes)),
        pipelines=pipelines,
        num_spares=rng.choice((0, 0, 1, 1, 2)),
        num_blocks=rng.randint(28, 64),
        max_running=rng.randint(4, 8),
        max_step_tokens=rng.choice((8, 16, 32)),
        log_bytes=rng.choice((1 << 20, 1 << 20, 1 << 20, 512, 0)),
        max_delay_s=rng.choice((0.001, 0.002, 0.005, 0.02, 0.05)),
        loss=rng.choice((0.0, 0.0, 0.02, 0.05)),
        duplication=rng.choice((0.0, 0.0, 0.05)),
        start_s=rng.choice((0.0, 0.1, 0.5)),
    )


APART: tuple[tuple[Phase, ...], ...] = (
    ("prefill", "decode"),
    ("prefill", "decode"),
    ("prefill", "decode"),
    ("prefill", "both"),
    ("prefill", "decode", "decode"),
    ("prefill", "prefill", "decode"),
    ("prefill", "both", "decode"),
)


def _phased(rng: random.Random, shape: Shape) -> Shape:
    """The same service with pipelines that serve phases apart."""
    phases = rng.choice(APART)
    return replace(
        shape,
        nodes=tuple(rng.randint(1, 2) for _ in range(rng.choice((2, 2, 3)))),
        pipelines=tuple(rng.choice((1, 1, 2, 3)) for _ in phases),
        phases=phases,
    )


def _faults(rng: random.Random, shape: Shape) -> list[Fault]:
    kinds = [*COMMON, *RARER]
    kinds += ["drain"] * (2 if len(shape.nodes) > 1 else 0)
    kinds += ["move"] * (6 if len(shape.pipelines) > 1 else 0)
    kinds += ["flip"] * (8 if shape.phases else 0)
    at_s, faults = 0.4, []
    for _ in range(rng.randint(1, 4)):
        fault = _fault(rng, rng.choice(kinds), at_s)
        faults.append(fault)
        if fault.what == "kill stage" and rng.random() < 0.5:
            faults.append(_held_up(rng, fault))
        if fault.what in ("move", "drain") and rng.random() < 0.5:
            faults.append(_late(rng, fault))
        # some strike while the one before is still being mended, and some right after
        at_s += rng.choice((rng.uniform(0.0, 0.15), rng.uniform(0.2, 1.5), rng.uniform(2.0, 4.0)))
        if fault.what == "kill gateway":  # its requests are gone: let others come first
            at_s = max(at_s, fault.at_s + fault.for_s + 1.0)
    return faults


def _fault(rng: random.Random, what: str, at_s: float) -> Fault:
    pick = rng.randrange(1 << 16)
    if what == "swap":
        is_by_number = rng.random() < 0.4
        layers = "" if is_by_number else _split(rng)
        num_stages = rng.randint(1, 4) if is_by_number else 0
        return Fault(at_s=at_s, what=what, pick=pick, layers=layers, num_stages=num_stages)
    if what in ("kill stage", "kill worker", "move", "flip"):
        return Fault(at_s=at_s, what=what, pick=pick)
    most_s = {"kill gateway": 0.8, "pause": 2.5, "part": 2.5}.get(what, 3.0)
    for_s = rng.uniform(0.1, most_s)
    if what in ("kill node", "kill home") and rng.random() < 0.08:
        for_s = rng.uniform(65.0, 90.0)
    return Fault(at_s=at_s, what=what, pick=pick, for_s=for_s)


def _held_up(rng: random.Random, loss: Fault) -> Fault:
    """Two stages part for a moment, so that steps arrive when the loss is already being mended."""
    at_s = loss.at_s + rng.uniform(0.4, 0.8)
    pick = rng.randrange(1 << 16)
    return Fault(at_s=at_s, what="hold", pick=pick, for_s=rng.uniform(0.3, 0.78))


def _late(rng: random.Random, move: Fault) -> Fault:
    """A pipeline's tokens are held up on their way, so that those of who takes over come first."""
    pick = rng.randrange(1 << 16)
    return Fault(at_s=move.at_s, what="late", pick=pick, for_s=rng.uniform(0.2, 0.75))


def _split(rng: random.Random) -> str:
    cuts = sorted(rng.sample(range(1, NUM_LAYERS), rng.randint(0, 3)))
    return ",".join(f"{a}:{b}" for a, b in pairwise((0, *cuts, NUM_LAYERS)))


def _asks(rng: random.Random, faults: list[Fault]) -> list[Ask]:
    """Enough to be under way at every fault, with some long ones among them."""
    times = [rng.uniform(0.0, 0.4) for _ in range(8)]
    for fault in faults:
        times += [max(0.0, fault.at_s - rng.uniform(0.0, 0.3)) for _ in range(rng.randint(4, 6))]
    return [
        Ask(
            at_s=at_s,
            name=f"r{number}",
            num_prompt=rng.randint(1, MAX_PROMPT),
            num_output=rng.choice((rng.randint(1, MAX_OUTPUT), rng.randint(40, MAX_OUTPUT))),
            temperature=rng.choice((0.0, 0.8)),
            seed=rng.randrange(1 << 62),
        )
        for number, at_s in enumerate(sorted(times))
    ]


def _in_families(asks: list[Ask], rng: random.Random) -> list[Ask]:
    """Most requests begin as others do, a part of their prompt or all of it."""
    return [
        replace(ask, family=rng.randrange(2), num_common=rng.choice((ask.num_prompt, 12, 25)))
        if rng.random() < 0.7
        else ask
        for ask in asks
    ]
