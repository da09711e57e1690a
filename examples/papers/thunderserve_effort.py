"""How much of ThunderServe's comparisons is simulated: loads, requests, scales of latencies."""

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

from rich.console import RenderableType

from examples.papers.thunderserve_runs import Setting
from examples.papers.thunderserve_systems import Deployment
from examples.papers.thunderserve_workers import Serve
from scheduling.kv_transport import Encoding


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """How much is computed.

    Attributes:
        num_requests: in each run.
        scales: multiples of the latencies of a request alone.
        rates: requests a second on the two machines; the last is more than they serve.
        split_rates: on equal pipelines.
        num_equal: of those.
        num_shifting: requests of a run whose load changes.
        plan_s: for a full plan.
    """

    num_requests: int = 120
    scales: tuple[float, ...] = (1.5, 2.0, 2.5, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0)
    rates: dict[str, tuple[float, ...]]
    split_rates: dict[str, tuple[float, ...]]
    num_equal: int = 6
    num_shifting: int = 400
    plan_s: float = 10.0

    def deployment(self, setting: Setting, kv: Encoding = "int4") -> Deployment:
        """A deployment that is looked at so long."""
        return Deployment(setting=setting, kv=kv, num_requests=self.num_requests)


EFFORT = Effort(
    rates={"conversation": (0.5, 1.0, 4.0), "code": (0.75, 1.5, 6.0)},
    split_rates={"conversation": (4.0, 8.0), "code": (3.0, 6.0)},
)
QUICK = Effort(
    num_requests=4,
    scales=(2.0, 8.0),
    rates={"conversation": (1.0,), "code": (1.5,)},
    split_rates={"conversation": (4.0,), "code": (3.0,)},
    num_equal=3,
    num_shifting=6,
    plan_s=0.2,
)
Part = Callable[[Effort, Serve, Path | None], AsyncIterator[RenderableType]]
