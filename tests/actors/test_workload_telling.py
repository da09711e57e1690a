"""A router tells what came every few seconds, and nothing while nothing came or nobody asks."""

from actors.messages import TokensOf, WorkloadSeen
from actors.stream import Stream
from actors.workload_telling import TELL_S, WorkloadTeller
from tests.actors.emulated_pipeline import request
from tests.support.actor_worlds import World, gateway_to, on_virtual_time, part, pipeline, settle


class Told:
    """A teller with what it told and how often it asked to be reminded."""

    def __init__(self, *, is_wanted: bool = True) -> None:
        self.news: list[WorkloadSeen] = []
        self.reminders: list[float] = []
        self.teller = WorkloadTeller(self.news.append, self.reminders.append, 0.0)
        self.teller.want(is_wanted=is_wanted, at_s=0.0)


def ended(num_prompt: int, num_output: int) -> Stream:
    stream = Stream(request("r", [1] * num_prompt, 100), 0.0)
    stream.delivered.extend([7] * num_output)
    return stream


def test_what_came_in_a_while_is_told_once_and_then_there_is_no_timer_any_more() -> None:
    told = Told()
    for at_s in (1.0, 2.0):
        told.teller.arrived(at_s)
    told.teller.ended(ended(5, 9))
    assert told.reminders == [TELL_S]
    told.teller.look("router", 3.0)
    (seen,) = told.news
    assert (seen.router, seen.elapsed_s, seen.num_arrived, seen.num_finished) == ("router", 3, 2, 1)
    assert (seen.prompts, seen.outputs, seen.gaps_s2) == ((5,), (9,), 1.0)
    assert told.reminders == [TELL_S] * 2
    told.teller.look("router", 5.0)
    assert len(told.news) == 1
    assert told.reminders == [TELL_S] * 2


def test_what_came_while_nobody_wanted_it_is_not_told_later() -> None:
    told = Told(is_wanted=False)
    told.teller.arrived(1.0)
    told.teller.ended(ended(5, 9))
    assert told.reminders == []
    told.teller.want(is_wanted=True, at_s=10.0)
    told.teller.arrived(11.0)
    told.teller.look("router", 12.0)
    (seen,) = told.news
    assert (seen.elapsed_s, seen.num_arrived, seen.num_finished) == (2.0, 1, 0)


@on_virtual_time
async def test_the_time_that_a_router_held_a_request_is_told_as_queueing(world: World) -> None:
    gateway = await gateway_to(world, "0")
    up = pipeline("0", gateway.pipelines["0"].ref)
    await gateway.announce(pipeline("0", None, state="recovering"), wants_workload=True)
    gateway.router.open(request("r", [1, 2, 3], 2))
    await settle(4.0)
    await gateway.announce(up, wants_workload=True, epoch=99)
    await settle()
    gateway.give("0", part("r", 0, 10, 11, finish="length"))
    await settle(2 * TELL_S)
    told = gateway.coordinator.all_of(WorkloadSeen)
    assert [message.num_finished for message in told] == [0, 1]
    assert [message.prefill_queue_s for message in told] == [0.0, 4.0]


def test_between_first_and_second_token_of_a_request_that_is_handed_off_it_queues() -> None:
    stream = Stream(request("r", [1, 2], 3), 0.0)
    stream.may_be_early = True
    for position, at_s in enumerate((1.0, 1.5, 4.0)):
        stream.accept(TokensOf("r", position, (9,), None), at_s)
    assert stream.between_s == 0.5
