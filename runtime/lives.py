"""How the processes of a service begin, each life of each of them.

Nothing here starts anything: it waits for what a life needs and writes down its settings. Those of
a later life are those of the first, but for the coordinator, of which there may be another.
"""

import asyncio
from dataclasses import dataclass
from pathlib import Path

from actors.kernel.ref import Ref
from actors.messages import DisturbLinks
from runtime.config import Config
from runtime.launcher_actor import LauncherActor
from runtime.network import why_not_bindable
from runtime.scratch import NodeDirectories
from runtime.settings import CoordinatorSettings, GatewaySettings, NodeSettings

JOURNAL = "coordinator.journal"
PORT_RETRY_S = 0.1
PORT_TRIES = 50


@dataclass(slots=True)
class Lives:
    """How the processes of a service begin, the first time and any other.

    Their ports stay, so that clients and nodes find them where they were; so does the coordinator's
    `secret_key`, where links are encrypted, since its address carries the public one.
    """

    launcher: LauncherActor
    parent: Ref
    config: Config
    token: str
    node_id: str
    journal: Path
    directories: NodeDirectories | None = None
    coordinator_ref: Ref | None = None
    secret_key: str = ""
    model_hash: str = ""

    async def coordinator(self) -> CoordinatorSettings:
        """Where the first one was; what it is to remember is in the journal."""
        host, port = self.config.cluster.host, self.config.cluster.port
        if self.coordinator_ref is not None:
            port = _port_of(self.coordinator_ref)
        await _wait_bindable(host, port)
        return CoordinatorSettings(
            name="coordinator",
            host=host,
            port=port,
            token=self.token,
            parent=self.parent,
            faults=self._faults(),
            config=self.config,
            journal=str(self.journal),
            secret_key=self.secret_key,
            model_hash=self.model_hash,
        )

    async def node(self) -> NodeSettings:
        """With the coordinator that there is now."""
        return NodeSettings(
            name="node",
            host=self.config.cluster.host,
            token=self.token,
            parent=self.parent,
            faults=self._faults(),
            node=self.node_id,
            drain_s=self.config.cluster.drain_s,
            notice=self.config.cluster.notice,
            model_hash=self.model_hash,
            coordinator=await self.launcher.wait_coordinator(),
            store="" if self.directories is None else str(self.directories.store),
            landing="" if self.directories is None else str(self.directories.landing),
            emulated_speed=self.config.cluster.emulated_speed,
        )

    async def gateway(self) -> GatewaySettings:
        """With the coordinator that there is now, at the port that clients know."""
        await _wait_bindable(self.config.http.host, self.config.http.port)
        return GatewaySettings(
            name="gateway",
            host=self.config.cluster.host,
            token=self.token,
            parent=self.parent,
            faults=self._faults(),
            config=self.config,
            model_hash=self.model_hash,
            coordinator=await self.launcher.wait_coordinator(),
        )

    def _faults(self) -> tuple[DisturbLinks, ...] | None:
        """None where nothing may ever disturb the links of this service."""
        return () if self.config.cluster.chaos else None


def journal_path(config: Config, scratch: Path) -> Path:
    """The coordinator's journal: where the operator wants it, else for this launch only."""
    return Path(config.cluster.journal).absolute() if config.cluster.journal else scratch / JOURNAL


def _port_of(ref: Ref) -> int:
    return int(ref.address.rpartition(":")[2])


async def _wait_bindable(host: str, port: int) -> None:
    """Let go by what a former life may have left at its port; the next one tells what remains."""
    for _ in range(PORT_TRIES):
        if why_not_bindable(host, port) is None:
            return
        await asyncio.sleep(PORT_RETRY_S)
