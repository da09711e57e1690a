"""Hears what the coordinator tells, through all of its lives."""

from collections.abc import Callable, Sequence

from actors.kernel.actor import Actor
from actors.kernel.ref import Ref
from actors.kernel.supervision import Down
from actors.messages import PlanChanged, Subscribe
from transport.codec import Message
from transport.endpoint import Lane
from transport.frame import Buffer

RETRY_S = 0.5


class SubscribeAgain(Message, frozen=True, tag="subscribe_again"):
    """Look for the coordinator's next life: a note to itself, never on the wire."""


class ObserverActor(Actor):
    """Passes every plan on; `coordinator` is to follow its address through restarts."""

    def __init__(self, coordinator: Ref, on_plan: Callable[[PlanChanged], None]) -> None:
        self._coordinator = coordinator
        self._on_plan = on_plan

    async def on_start(self) -> None:
        """Ask to be told."""
        self._subscribe()

    async def receive(
        self, message: Message, sender: Ref | None, buffers: Sequence[Buffer]
    ) -> Message | None:
        """Take plans, and the news that whoever tells them is gone."""
        match message:
            case PlanChanged():
                self._on_plan(message)
            case SubscribeAgain():
                self._subscribe()
            case Down():
                self.context.schedule(RETRY_S, SubscribeAgain())
        return None

    def _subscribe(self) -> None:
        self.context.watch(self._coordinator)
        subscribe = Subscribe(ref=self.context.self_ref)
        self.context.tell(self._coordinator, subscribe, lane=Lane.CONTROL)
