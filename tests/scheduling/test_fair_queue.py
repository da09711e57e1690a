import random
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from scheduling import fair_queue
from scheduling.fair_queue import FairQueue

PUSHES = st.lists(
    st.tuples(st.sampled_from("abcd"), st.integers(-2, 2), st.integers(1, 50)), max_size=40
)


def drained(queue: FairQueue[str]) -> list[str]:
    found = []
    while (item := queue.pop()) is not None:
        found.append(item)
    return found


def test_an_empty_queue_gives_nobody_a_turn() -> None:
    queue: FairQueue[str] = FairQueue()
    assert queue.pop() is None
    assert len(queue) == 0


def test_a_flood_of_one_client_does_not_delay_another() -> None:
    queue: FairQueue[str] = FairQueue()
    for number in range(100):
        queue.push(f"flood{number}", "flood")
    queue.push("single", "quiet")
    taken = []
    for _ in range(2):
        item = queue.pop()
        assert item is not None
        taken.append(item)
        queue.charge("flood" if item.startswith("flood") else "quiet", 10)
    assert taken == ["flood0", "single"]


def test_a_client_of_twice_the_weight_is_served_twice_as_much() -> None:
    queue: FairQueue[str] = FairQueue()
    for number in range(300):
        queue.push(f"heavy{number}", "heavy")
        queue.push(f"light{number}", "light")
    served: Counter[str] = Counter()
    for _ in range(300):
        item = queue.pop()
        assert item is not None
        client, weight = ("heavy", 2.0) if item.startswith("heavy") else ("light", 1.0)
        served[client] += 1
        queue.charge(client, 10, weight)
    assert served == {"heavy": 200, "light": 100}


def test_the_lesser_priority_goes_first_whatever_was_served() -> None:
    queue: FairQueue[str] = FairQueue()
    queue.charge("busy", 1e9)
    queue.push("later", "idle", 1)
    queue.push("urgent", "busy", -1)
    queue.push("usual", "idle", 0)
    assert drained(queue) == ["urgent", "usual", "later"]


def test_an_idle_time_is_no_credit() -> None:
    queue: FairQueue[str] = FairQueue()
    queue.push("a0", "a")
    queue.charge("a", 1000)
    queue.push("b0", "b")
    assert queue.served("b") == 1000
    assert drained(queue) == ["a0", "b0"]


def test_what_does_not_wait_cannot_be_removed() -> None:
    queue: FairQueue[str] = FairQueue()
    queue.push("x", "a")
    assert not queue.remove("x", "b")
    assert not queue.remove("x", "a", 1)
    assert queue.remove("x", "a")
    assert not queue.remove("x", "a")
    assert queue.pop() is None


def test_clients_that_wait_for_nothing_are_forgotten_beyond_a_bound() -> None:
    queue: FairQueue[str] = FairQueue()
    queue.push("x", "waits")
    queue.charge("waits", 5)
    for number in range(fair_queue.MAX_REMEMBERED + 10):
        queue.charge(f"client{number}", 1)
    assert queue.served("client0") == 0
    assert queue.served("waits") == 5


@given(PUSHES)
def test_everything_comes_out_once_by_priority_and_each_clients_in_order(
    pushes: list[tuple[str, int, int]],
) -> None:
    queue: FairQueue[tuple[int, str, int]] = FairQueue()
    for number, (client, priority, _) in enumerate(pushes):
        queue.push((priority, client, number), client, priority)
    found = []
    while (item := queue.pop()) is not None:
        queue.charge(item[1], pushes[item[2]][2])
        found.append(item)
    assert sorted(found) == sorted((p, c, n) for n, (c, p, _) in enumerate(pushes))
    assert [p for p, _, _ in found] == sorted(p for p, _, _ in found)
    for client in "abcd":
        for priority in range(-2, 3):
            mine = [n for p, c, n in found if (p, c) == (priority, client)]
            assert mine == sorted(mine)


@given(st.integers(0, 1 << 32), st.integers(2, 5))
def test_clients_that_always_wait_are_served_alike(seed: int, num_clients: int) -> None:
    """The bound of the paper: no two differ by more than the largest turn."""
    rng, queue = random.Random(seed), FairQueue[str]()
    names = [f"c{number}" for number in range(num_clients)]
    served = dict.fromkeys(names, 0)
    for name in names * 2:
        queue.push(name, name)
    for _ in range(200):
        taken = queue.pop()
        assert taken is not None
        queue.push(taken, taken)  # one more of it waits all the time
        cost = rng.randint(1, 100)
        served[taken] += cost
        queue.charge(taken, cost)
        assert max(served.values()) - min(served.values()) <= 200
