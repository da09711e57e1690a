"""A request that an operator has go on in another pipeline, KV and all.

The pipelines do it between themselves (`request_moves`); here they are found, asked, and reported.
"""

from actors.cluster import Cluster
from actors.kernel.actor import LaterReply
from actors.kernel.errors import ActorError
from actors.kernel.ref import Ref
from actors.messages import HandedOver, MoveOut, MoveRequest, PhaseReport
from actors.order_report import order_report
from scheduling.errors import SchedulingError
from transport.codec import Message
from transport.errors import TransportError

MOVE_TIMEOUT_S = 60.0
ANSWER_GRACE_S = 1.0


def move_request(cluster: Cluster, message: MoveRequest) -> Message | None:
    """Have a request moved; None where the answer comes later."""
    try:
        giver, taker = cluster.named(message.from_pipeline), cluster.named(message.to_pipeline)
    except SchedulingError as error:
        return order_report(cluster, reason=str(error))
    if giver is taker or giver.home is None or taker.home is None:
        what = "it is there already" if giver is taker else "one of the pipelines is not up"
        return order_report(cluster, reason=f"request {message.request}: {what}")
    move = MoveOut(request=message.request, to=taker.home, deadline_s=MOVE_TIMEOUT_S)
    later = cluster.context.reply_later()
    cluster.context.start_task(_move(cluster, giver.home, move, later))
    return None


async def _move(cluster: Cluster, giver: Ref, move: MoveOut, later: LaterReply) -> None:
    context = cluster.context
    began = context.loop_time()
    try:
        answer = await context.ask(giver, move, timeout_s=MOVE_TIMEOUT_S + ANSWER_GRACE_S)
        failure = answer.failure if isinstance(answer, HandedOver) else "another answer came"
    except (ActorError, TransportError) as error:
        failure = str(error)
    phases = (PhaseReport(phase="move", duration_s=context.loop_time() - began, num_bytes=0),)
    moves = (f"request {move.request}",)
    later.reply(order_report(cluster, reason=failure or "", moves=moves, phases=phases))
