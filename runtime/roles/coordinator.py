"""The coordinator's process."""

import os
from contextlib import AsyncExitStack

from actors.coordinator import CoordinatorActor
from actors.kernel.system import ActorSystem
from actors.messages import ProcessUp
from runtime.child import run_child
from runtime.profile import service_settings
from runtime.settings import CoordinatorSettings
from transport.endpoint import Lane

NAME = "coordinator"


async def start(settings: CoordinatorSettings, system: ActorSystem, ending: AsyncExitStack) -> None:
    """Spawn the coordinator and tell the launcher where it listens."""
    actor = CoordinatorActor(service_settings(settings.config))
    ref = system.spawn(actor, name=NAME)
    up = ProcessUp(role=settings.name, ref=ref, pid=os.getpid())
    system.tell(settings.parent, up, lane=Lane.CONTROL)


def main() -> None:
    """Live as the coordinator's process."""
    run_child(CoordinatorSettings, start)
