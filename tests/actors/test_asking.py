"""Questions to actors that may be gone, and orders to pipelines that may not be able to."""

import pytest

from actors.asking import answer_of
from actors.kernel.errors import ActorError
from actors.kernel.ref import Ref
from actors.messages import GetPipelineLoad, HandedOver, LeaveNow, MoveOut
from actors.request_orders import ANSWER_GRACE_S, ask_to_move
from transport.codec import Message
from transport.errors import Unreachable

SOMEBODY = Ref(address="memory://a", incarnation=1, name="pipeline")


class Asked:
    """Who answers, or does not; what it was given to answer within is noted."""

    def __init__(self, answer: Message | Exception) -> None:
        self.answer = answer
        self.timeout_s = 0.0

    async def ask(self, ref: Ref, message: Message, *, timeout_s: float) -> Message:
        self.timeout_s = timeout_s
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.mark.parametrize("gone", [ActorError("gone"), Unreachable("nobody there"), LeaveNow()])
async def test_who_does_not_answer_or_answers_something_else_has_not_answered(
    gone: Message | Exception,
) -> None:
    assert (
        await answer_of(Asked(gone), SOMEBODY, GetPipelineLoad(), HandedOver, timeout_s=1) is None
    )


async def test_an_answer_of_the_kind_that_was_asked_for_is_given() -> None:
    asker = Asked(HandedOver(num_requests=1, failure=None))
    found = await answer_of(asker, SOMEBODY, GetPipelineLoad(), HandedOver, timeout_s=3.0)
    assert found is asker.answer
    assert asker.timeout_s == 3.0


@pytest.mark.parametrize(
    ("answer", "failure"),
    [
        (HandedOver(num_requests=1, failure=None), ""),
        (HandedOver(num_requests=0, failure="no room"), "no room"),
        (LeaveNow(), "another answer came"),
        (ActorError("it has ended"), "it has ended"),
        (Unreachable(""), "Unreachable"),
    ],
)
async def test_a_move_is_done_only_if_the_giver_says_so(
    answer: Message | Exception, failure: str
) -> None:
    asker = Asked(answer)
    move = MoveOut(request="r", to=SOMEBODY, deadline_s=5.0)
    assert await ask_to_move(asker, SOMEBODY, move) == failure
    assert asker.timeout_s == 5.0 + ANSWER_GRACE_S
