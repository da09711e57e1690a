"""Who is told how the service stands: routers, which serve by it, and launchers, which show it.

The one idea: a status is told whole, so whoever registers late or misses one has it with the next.
It never knows what a status says.
"""

from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType

from actors.cluster import Cluster
from actors.kernel.ref import Ref
from actors.messages import (
    LoadProgress,
    PlanChanged,
    ProcessInfo,
    Progress,
    RegisterRouter,
    Subscribe,
)
from transport.codec import Message
from transport.endpoint import Lane


class Listeners:
    """Routers and launchers that are there; `status` is what they are told."""

    def __init__(self, cluster: Cluster, status: Callable[[], PlanChanged]) -> None:
        self._cluster, self._status = cluster, status
        self._routers: dict[Ref, int] = {}
        self._launchers: dict[Ref, None] = {}

    @property
    def routers(self) -> Mapping[Ref, int]:
        """The process id of each router, in the order in which they came."""
        return MappingProxyType(self._routers)

    def gateways(self) -> Iterator[ProcessInfo]:
        """The processes that routers live in."""
        for number, pid in enumerate(self._routers.values()):
            yield ProcessInfo(role="gateway", name=f"gateway-{number}", pid=pid)

    def add(self, message: RegisterRouter | Subscribe) -> None:
        """Tell one more from now on, and at once."""
        if isinstance(message, RegisterRouter):
            self._routers[message.ref] = message.pid
        else:
            self._launchers[message.ref] = None
        self._cluster.context.watch(message.ref)
        self._cluster.context.tell(message.ref, self._status(), lane=Lane.CONTROL)

    def drop(self, ref: Ref) -> None:
        """Tell this one nothing any more, if it was told anything."""
        self._routers.pop(ref, None)
        self._launchers.pop(ref, None)

    def tell_status(self) -> None:
        """Tell everyone how the service stands now."""
        status = self._status()
        for listener in (*self._routers, *self._launchers):
            self._cluster.context.tell(listener, status, lane=Lane.CONTROL)

    def tell_launchers(self, message: Message, *, lane: Lane = Lane.DATA) -> None:
        """Tell those who show it to somebody."""
        for launcher in self._launchers:
            self._cluster.context.tell(launcher, message, lane=lane)

    def on_progress(self, message: LoadProgress) -> None:
        """One stage has loaded some more: launchers are told the sum over all."""
        record = self._cluster.pipelines.get(message.pipeline)
        if record is None or message.epoch != record.epoch:
            return
        record.loaded[message.stage] = message
        told = [stage for r in self._cluster.pipelines.values() for stage in r.loaded.values()]
        progress = Progress(
            num_bytes=sum(stage.num_bytes for stage in told),
            total_bytes=sum(stage.total_bytes for stage in told),
        )
        self.tell_launchers(progress, lane=Lane.CONTROL)
