"""The coordinator's process."""

import os
from contextlib import AsyncExitStack
from pathlib import Path

from actors.coordinator import CoordinatorActor
from actors.kernel.system import ActorSystem
from actors.messages import ProcessUp
from runtime.child import kept_attention, run_child
from runtime.journal import Journal
from runtime.profile import service_settings
from runtime.settings import CoordinatorSettings
from transport.endpoint import Lane

NAME = "coordinator"


async def start(settings: CoordinatorSettings, system: ActorSystem, ending: AsyncExitStack) -> None:
    """Spawn the coordinator over what its former life left, and tell the launcher where it is."""
    journal = Journal.open(Path(settings.journal)) if settings.journal else None
    if journal is not None:
        ending.callback(journal.close)
        ending.push_async_callback(system.stop)  # first: the coordinator may save until it ends
    actor = CoordinatorActor(
        service_settings(settings.config),
        journal,
        pid=os.getpid(),
        attention=kept_attention(ending),
    )
    ref = system.spawn(actor, name=NAME)
    up = ProcessUp(role=settings.name, ref=ref, pid=os.getpid())
    system.tell(settings.parent, up, lane=Lane.CONTROL)


def main() -> None:
    """Live as the coordinator's process."""
    run_child(CoordinatorSettings, start)
