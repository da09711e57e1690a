"""What can be done to a service, as values, and the processes that it can be done to.

Pure: a target is a name like `stage:1`, and what it means is read from the service's own status. A
process that the status does not list has no name here, so that nobody else's is ever struck.
"""

from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

from runtime.control.service import CommandFailed


@dataclass(frozen=True, slots=True)
class Kill:
    """End a process at once, without a word to anybody."""

    target: str

    def __str__(self) -> str:
        return f"kill {self.target}"


@dataclass(frozen=True, slots=True)
class Pause:
    """Stop a process for a while, as a machine that hangs."""

    target: str
    for_s: float

    def __str__(self) -> str:
        return f"pause {self.target} for {self.for_s:g} s"


@dataclass(frozen=True, slots=True)
class Disturb:
    """Cut (`partition`) or slow (`slow-link`) all links between two targets for a while.

    How slow, where None, the service decides.
    """

    kind: str
    a: str
    b: str
    for_s: float
    latency_s: float | None = None
    bytes_per_s: float | None = None

    def __str__(self) -> str:
        return f"{self.kind} {self.a}|{self.b} for {self.for_s:g} s"

    def fields(self) -> dict[str, str | float]:
        """The JSON object of `POST /admin/fault`."""
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True, slots=True)
class Swap:
    """Give a pipeline other layers while it serves: no fault, but no stream may notice it."""

    pipeline: str
    layers: str

    def __str__(self) -> str:
        return f"swap {self.pipeline} to {self.layers}"


Strike = Kill | Pause | Disturb | Swap


def is_gateway(strike: Strike) -> bool:
    """Whether it ends clients' connections, whatever the service does."""
    return isinstance(strike, Kill) and strike.target.partition(":")[0] == "gateway"


def find_pid(status: dict[str, Any], target: str) -> int:
    """The process that a target names.

    Raises:
        CommandFailed: there is none; the text names those that there are.
    """
    targets = known_targets(status)
    if target not in targets:
        known = ", ".join(targets) or "none"
        raise CommandFailed(f"the service has no process {target}; there are {known}")
    return targets[target]


def known_targets(status: dict[str, Any]) -> dict[str, int]:
    """Every process that lives, by the name it can be struck by."""
    found = _stages(status["pipelines"]) | _others(status.get("processes", []))
    nodes = [pid for name, pid in found.items() if name.startswith("node:")]
    if len(nodes) == 1:  # a pipeline's actor lives in a node's process
        for pipeline in status["pipelines"]:
            found.setdefault(f"pipeline:{pipeline['id']}", nodes[0])
    return {name: pid for name, pid in found.items() if pid > 0}


def known_splits(status: dict[str, Any]) -> dict[str, tuple[tuple[int, int], ...]]:
    """The layers of each stage, by pipeline; none of a pipeline that does not tell all of them."""
    return {
        str(pipeline["id"]): tuple((start, end) for start, end in ranges)
        for pipeline in status["pipelines"]
        if all(ranges := [stage.get("layers") for stage in pipeline["stages"]])
    }


def _stages(pipelines: list[dict[str, Any]]) -> dict[str, int]:
    """`stage:N`, where there is one pipeline; else `stage:PIPELINE/N`."""
    is_one = len(pipelines) == 1
    return {
        _stage(pipeline, stage, is_one): stage["pid"]
        for pipeline in pipelines
        for stage in pipeline["stages"]
    }


def _others(processes: list[dict[str, Any]]) -> dict[str, int]:
    """`coordinator` and `gateway`, where there is one; nodes and others by their names."""
    roles = Counter(process["role"] for process in processes)
    return {_other(process, roles): process["pid"] for process in processes}


def _other(process: dict[str, Any], roles: Counter[str]) -> str:
    role = str(process["role"])
    is_one = role in ("coordinator", "gateway") and roles[role] == 1
    return role if is_one else f"{role}:{process['name']}"


def _stage(pipeline: dict[str, Any], stage: dict[str, Any], is_one: bool) -> str:
    return f"stage:{stage['stage']}" if is_one else f"stage:{pipeline['id']}/{stage['stage']}"
