"""A request that is to go on in another pipeline, KV and all, as an operator or `relief` orders it.

The pipelines do it between themselves (`request_moves`); here they are asked, and it is reported.
"""

from actors.asking import Asker
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
    began = cluster.context.loop_time()
    failure = await ask_to_move(cluster.context, giver, move)
    duration_s = cluster.context.loop_time() - began
    phases = (PhaseReport(phase="move", duration_s=duration_s, num_bytes=0),)
    moves = (f"request {move.request}",)
    later.reply(order_report(cluster, reason=failure, moves=moves, phases=phases))


async def ask_to_move(asker: Asker, giver: Ref, move: MoveOut) -> str:
    """Have a pipeline give a request away; why it was not done, empty if it was."""
    try:
        answer = await asker.ask(giver, move, timeout_s=move.deadline_s + ANSWER_GRACE_S)
    except (ActorError, TransportError) as error:
        return str(error) or type(error).__name__
    if not isinstance(answer, HandedOver):
        return "another answer came"
    return answer.failure or ""
