"""What is watched while a schedule runs: epochs that may never go back, wherever they are seen.

The watchers are the real actors, which note what they are told; what they do stays as it is.
"""

from collections.abc import Sequence

from actors.holding import Held
from actors.kernel.ref import Ref
from actors.messages import (
    Fence,
    PlanChanged,
    Tokens,
)
from actors.router import RouterActor
from actors.stage import StageActor
from tests.actors.emulated_pipeline import EmulatedDevice
from transport.codec import Message
from transport.frame import Buffer


class Epochs:
    """The newest epoch that each observer saw of each thing; going back is a problem."""

    def __init__(self) -> None:
        self.problems: list[str] = []
        self._newest: dict[tuple[str, ...], int] = {}

    def see(self, epoch: int, *what: str) -> None:
        """An observer sees a thing at an epoch."""
        newest = self._newest.get(what, 0)
        if epoch < newest:
            self.problems.append(f"{' '.join(what)} went back from epoch {newest} to {epoch}")
        self.bar(epoch, *what)

    def bar(self, epoch: int, *what: str) -> None:
        """Nothing older than this is to be seen from now on."""
        self._newest[what] = max(epoch, self._newest.get(what, 0))


class WatchedRouter(RouterActor):
    """A router that notes the epochs of plans and tokens."""

    def __init__(self, coordinator: Ref, epochs: Epochs) -> None:
        super().__init__(coordinator)
        self._epochs = epochs

    async def receive(
        self, message: Message, sender: Ref | None, buffers: Sequence[Buffer]
    ) -> Message | None:
        """Note what comes, and handle it."""
        answer = await super().receive(message, sender, buffers)
        if isinstance(message, Tokens):
            self._epochs.see(message.epoch, "tokens of", str(sender))
        elif isinstance(message, PlanChanged) and self.plan is not None:
            for status in self.plan.pipelines:
                self._epochs.see(status.epoch, "the router's pipeline", status.pipeline)
        return answer


class WatchedStage(StageActor):
    """A stage that notes which epochs it is fenced off from, and which it still runs."""

    def __init__(self, device: EmulatedDevice, epochs: Epochs) -> None:
        super().__init__(device)
        self._epochs = epochs

    async def receive(
        self, message: Message, sender: Ref | None, buffers: Sequence[Buffer]
    ) -> Message | None:
        """Note a fence, and handle what comes."""
        if isinstance(message, Fence):
            self._epochs.bar(message.epoch, "steps of", str(self.context.self_ref))
        return await super().receive(message, sender, buffers)

    def _use(self, epoch: int) -> Held | None:
        held = super()._use(epoch)
        if held is not None:
            self._epochs.see(epoch, "steps of", str(self.context.self_ref))
        return held
