"""A node's weights towards other nodes: it fetches what its stage lacks, and gives what it has.

One stands in every worker's process beside the stage, under a name that follows from the stage's
address, so that whoever knows a worker knows whom to ask. It never touches a device.
"""

import logging
from collections.abc import Awaitable, Sequence

import msgspec

from actors.kernel.actor import Actor, LaterReply
from actors.kernel.ref import ANY, Ref
from actors.messages import FetchWeights, FindWeights, SendWeights, WriteWeights
from actors.weights_fetch import Fetching
from actors.weights_serving import LookAtLeases, Run, Serving
from models.weight_places import WeightPlaces
from transport.codec import Message
from transport.frame import Buffer

_log = logging.getLogger(__name__)

NAME = "weights"


class WeightsActor(Actor):
    """Fetches and gives weights, piece by piece."""

    def __init__(self, run: Run, places: WeightPlaces) -> None:
        self._run, self._places = run, places

    async def on_start(self) -> None:
        """Nothing is open and nothing is under way."""
        self.serving = Serving(self.context, self._run, self._places)
        self.fetching = Fetching(self.context, self._run, self._places)

    async def receive(
        self, message: Message, sender: Ref | None, buffers: Sequence[Buffer]
    ) -> Message | None:
        """Take orders of the own stage, questions of others, and pieces."""
        match message:
            case WriteWeights():
                self._reply_with(self.fetching.write(message, buffers))
            case FetchWeights():
                self._reply_with(self.fetching.fetch(message))
            case FindWeights():
                self._reply_with(self.serving.find(message))
            case SendWeights():
                self._reply_with(self.serving.send(message))
            case LookAtLeases():
                self.serving.end_leases()
            case _:
                _log.warning("unexpected message type=%s", type(message).__name__)
        return None

    def _reply_with(self, answer: Awaitable[Message]) -> None:
        self.context.start_task(_reply(self.context.reply_later(), answer))


def weights_of(worker: Ref) -> Ref:
    """Whom to ask for the weights that a worker's node has."""
    return msgspec.structs.replace(worker, name=NAME, generation=ANY)


async def _reply(later: LaterReply, answer: Awaitable[Message]) -> None:
    later.reply(await answer)
