import asyncio

from hypothesis import given
from hypothesis import strategies as st

from runtime.telemetry.events import Event, EventLog


def log(max_events: int, num_events: int = 0) -> EventLog:
    found = EventLog(max_events, lambda: 7.0)
    for number in range(num_events):
        found.add(Event("tick", {"n": number}))
    return found


def test_events_are_numbered_and_dated() -> None:
    entry = log(4, 1).after(0, 10)[0]
    assert entry.body() == {"id": 1, "at": 7.0, "kind": "tick", "facts": {"n": 0}}


@given(st.integers(1, 8), st.integers(0, 20), st.integers(0, 25), st.integers(0, 30))
def test_a_reader_gets_every_event_or_is_told_how_many_it_missed(
    max_events: int, num_events: int, after: int, limit: int
) -> None:
    found = log(max_events, num_events)
    got, missed = found.after(after, 1000), found.num_missed(after)
    assert len(got) <= max_events
    assert missed + len(got) == max(0, num_events - after)
    assert [e.id for e in got] == list(range(after + missed + 1, num_events + 1))[: len(got)]
    assert found.after(after, limit) == got[:limit]


async def test_who_waits_is_woken_by_the_next_event() -> None:
    found = log(4)
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        waits = [group.create_task(found.wait_after(0, 9)) for _ in range(2)]
        await asyncio.sleep(0)
        found.add(Event("tick"))
    assert [wait.result() for wait in waits] == [True, True]
    assert await found.wait_after(0, 0.01)


async def test_who_waits_for_nothing_is_told_in_time() -> None:
    assert not await log(4, 2).wait_after(2, 0.01)
