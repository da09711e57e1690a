"""What goes wrong, or is changed, and when: a file of lines, read into values.

    # seconds  what
    30   kill stage 0.1              its worker process, in pipeline 0
    60   kill node b3                the machine and all on it; `times.restart_s` later it is back
    90   kill pipeline 1             the node that its actor is on
    120  kill coordinator            its next life finds what it stored
    150  partition a0 b0 for 5       two nodes, sites, or `coordinator` or `gateway`
    200  slow site-a site-b by 10 for 30
    240  pause stage 1.2 for 2       or a node or the coordinator: its processes stand still
    300  swap 0 0:30,30:50,50:80     the layers that each stage is to have
    400  drain b3 within 30          move everything off a node, which then leaves
    450  flip 0=decode 1=prefill     the parts of a request that pipelines are to serve

Times count from when the service is up. It never knows how any of it is done: `mishaps` does it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from runtime.errors import ConfigError
from runtime.simulation.cluster_file import Cluster
from scheduling.placement import PHASES

CONTROL = ("coordinator", "gateway")
USAGE = {
    "kill": "kill (stage P.S | node ID | pipeline P | coordinator)",
    "partition": "partition PLACE PLACE for SECONDS",
    "slow": "slow PLACE PLACE by FACTOR for SECONDS",
    "pause": "pause (stage P.S | node ID | coordinator) for SECONDS",
    "swap": "swap P LAYERS",
    "drain": "drain ID within SECONDS",
    "flip": "flip P=PHASE [P=PHASE ...]",
}


@dataclass(frozen=True, slots=True)
class Target:
    """Who is meant: `kind` is stage, node, pipeline or coordinator."""

    kind: str
    name: str


@dataclass(frozen=True, slots=True)
class Kill:
    """End a process, or a machine, without a word."""

    target: Target


@dataclass(frozen=True, slots=True)
class Partition:
    """Let nothing through between two places for a while."""

    one: str
    other: str
    for_s: float


@dataclass(frozen=True, slots=True)
class Slow:
    """Have everything between two places take so many times as long for a while."""

    one: str
    other: str
    factor: float
    for_s: float


@dataclass(frozen=True, slots=True)
class Pause:
    """Have processes stand still for a while, as one that swaps or was stopped."""

    target: Target
    for_s: float


@dataclass(frozen=True, slots=True)
class Swap:
    """Give a pipeline's stages other layers."""

    pipeline: str
    layers: str


@dataclass(frozen=True, slots=True)
class Drain:
    """Move everything off a node."""

    node: str
    within_s: float


@dataclass(frozen=True, slots=True)
class Flip:
    """Have pipelines serve other parts of requests; pairs of a pipeline and its phase."""

    phases: tuple[tuple[str, str], ...]


What = Kill | Partition | Slow | Pause | Swap | Drain | Flip


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that happens at a time; `text` is the line it came from."""

    at_s: float
    text: str
    what: What


def load_faults(path: Path, cluster: Cluster) -> tuple[Fault, ...]:
    """Read a file of faults.

    Raises:
        ConfigError: it cannot be read, or a line is not understood or names what is not there.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"faults: cannot read {path}: {error}") from None
    try:
        return parse_faults(text, cluster)
    except ConfigError as error:
        raise ConfigError(f"{path}:{error}") from None


def parse_faults(text: str, cluster: Cluster) -> tuple[Fault, ...]:
    """Read faults, one a line, in the order of their times.

    Raises:
        ConfigError: a line is not understood or names what is not there; begins with its number.
    """
    found = []
    for number, line in enumerate(text.splitlines(), start=1):
        words = line.partition("#")[0].split()
        if words:
            try:
                found.append(_fault(words, cluster))
            except ConfigError as error:
                raise ConfigError(f"{number}: {error}") from None
    return tuple(sorted(found, key=lambda fault: fault.at_s))


def _fault(words: Sequence[str], cluster: Cluster) -> Fault:
    at_s, rest = _seconds(words[0]), list(words[1:])
    if not rest or rest[0] not in USAGE:
        got = rest[0] if rest else "nothing"
        raise ConfigError(f"expected SECONDS and one of {', '.join(USAGE)}; got {got!r}")
    return Fault(at_s, " ".join(rest), _what(rest, cluster))


def _what(words: Sequence[str], cluster: Cluster) -> What:
    match words:
        case ["kill", *target]:
            return Kill(_target(target, cluster, ("stage", "node", "pipeline", "coordinator")))
        case ["partition", one, other, "for", seconds]:
            return Partition(_place(one, cluster), _place(other, cluster), _seconds(seconds))
        case ["slow", one, other, "by", factor, "for", seconds]:
            places = _place(one, cluster), _place(other, cluster)
            return Slow(*places, _number(factor, "a factor", least=1.0), _seconds(seconds))
        case ["pause", *target, "for", seconds]:
            known = ("stage", "node", "coordinator")
            return Pause(_target(target, cluster, known), _seconds(seconds))
        case ["swap", pipeline, layers]:
            return Swap(_pipeline(pipeline, cluster), layers)
        case ["drain", node, "within", seconds]:
            return Drain(_node(node, cluster), _seconds(seconds))
        case ["flip", first, *others]:
            return Flip(tuple(_phase(pair, cluster) for pair in (first, *others)))
    raise ConfigError(f"expected: {USAGE[words[0]]}")


def _target(words: Sequence[str], cluster: Cluster, kinds: Sequence[str]) -> Target:
    match words:
        case ["coordinator"]:
            return Target("coordinator", "coordinator")
        case ["node", name]:
            return Target("node", _node(name, cluster))
        case ["pipeline", name] if "pipeline" in kinds:
            return Target("pipeline", _pipeline(name, cluster))
        case ["stage", name]:
            pipeline, dot, stage = name.partition(".")
            if dot and stage.isdecimal():
                return Target("stage", f"{_pipeline(pipeline, cluster)}.{int(stage)}")
    raise ConfigError(f"expected one of {', '.join(kinds)}, and which; got {' '.join(words)!r}")


def _pipeline(name: str, cluster: Cluster) -> str:
    known = [str(number) for number in range(max(1, len(cluster.pipelines)))]
    if name not in known:
        raise ConfigError(f"pipeline {name!r} is not one of {', '.join(known)}")
    return name


def _phase(pair: str, cluster: Cluster) -> tuple[str, str]:
    pipeline, _, phase = pair.partition("=")
    if phase not in PHASES:
        raise ConfigError(f"expected P={'|'.join(PHASES)}, got {pair!r}")
    return _pipeline(pipeline, cluster), phase


def _node(name: str, cluster: Cluster) -> str:
    known = [node.id for node in cluster.nodes]
    if name not in known:
        raise ConfigError(f"node {name!r} is not one of {', '.join(known)}")
    return name


def _place(name: str, cluster: Cluster) -> str:
    sites = {node.site: None for node in cluster.nodes}
    known = [*(node.id for node in cluster.nodes), *sites, *CONTROL]
    if name not in known:
        raise ConfigError(f"place {name!r} is not one of {', '.join(known)}")
    return name


def _seconds(text: str) -> float:
    return _number(text, "seconds", least=0.0)


def _number(text: str, what: str, *, least: float) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not least <= number < math.inf:
        raise ConfigError(f"expected {what} of {least:g} or more, got {text!r}")
    return number
