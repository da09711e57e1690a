"""What requests come is known in bounded memory, and is what came."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduling.phases.profiler import MAX_PAIRS, MAX_SILENCE_S, Profiler, Seen, Tally


def seen(
    num_arrived: int, lengths: list[int], *, elapsed_s: float = 1.0, queue_s: float = 0
) -> Seen:
    return Seen(
        elapsed_s=elapsed_s,
        num_arrived=num_arrived,
        gaps_s2=0.0,
        num_finished=len(lengths),
        prompts=tuple(lengths),
        outputs=tuple(2 * length for length in lengths),
        prefill_queue_s=queue_s,
        decode_queue_s=2 * queue_s,
    )


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 9), st.lists(st.integers(1, 99), max_size=5)), max_size=30)
)
def test_what_a_window_holds_is_what_came_in_it(news: list[tuple[int, list[int]]]) -> None:
    profiler = Profiler(window_s=10.0)
    for at, (num, lengths) in enumerate(news):
        profiler.add(float(at), "router", seen(num, lengths))
    kept = news[-10:]
    observed = profiler.observed(float(len(news) - 1))
    assert observed.prompts == tuple(length for _, lengths in kept for length in lengths)
    assert observed.outputs == tuple(2 * length for length in observed.prompts)
    assert observed.num_arrived == sum(num for num, _ in kept)
    assert observed.rate == pytest.approx(sum(num for num, _ in kept) / max(1, len(kept)))


def test_no_more_lengths_are_kept_than_may_be() -> None:
    profiler = Profiler(window_s=1e6, max_pairs=MAX_PAIRS)
    for at in range(1000):
        profiler.add(float(at), f"router {at % 3}", seen(1, [at + 1, at + 1]))
    observed = profiler.observed(1000.0)
    assert len(observed.prompts) == MAX_PAIRS
    assert max(observed.prompts) == 1000
    assert min(observed.prompts) == 1000 - MAX_PAIRS // 2 + 1


def test_what_a_window_has_left_behind_is_gone() -> None:
    profiler = Profiler(window_s=10.0)
    profiler.add(0.0, "router", seen(5, [7]))
    assert profiler.observed(5.0).rate == 5.0
    observed = profiler.observed(10.0)
    assert (observed.rate, observed.num_arrived, observed.window_s) == (0.0, 0, 0.0)
    assert not observed.is_enough


def test_routers_rates_add_up_and_their_burstiness_is_the_mean_by_rate() -> None:
    profiler = Profiler()
    profiler.add(10.0, "one", seen(30, [10], elapsed_s=10.0))
    profiler.add(10.0, "other", seen(10, [20], elapsed_s=10.0))
    observed = profiler.observed(10.0)
    assert observed.rate == pytest.approx(4.0)
    assert observed.arrival_cv2 == 0.0  # no gap varied: their squares were told as 0
    assert observed.prompts == (10, 20)


def test_who_falls_silent_counts_for_less_and_less_until_it_is_forgotten() -> None:
    profiler = Profiler(window_s=100.0)
    for at in range(10):
        profiler.add(float(at), "router", seen(5, [7]))
    rates = [profiler.observed(at_s).rate for at_s in (9.0, 9.0 + MAX_SILENCE_S, 24.0, 64.0)]
    assert rates == pytest.approx([5.0, 5.0, 50 / 20, 50 / 60])
    for at in range(65, 75):
        profiler.add(float(at), "its next life", seen(5, [7]))
    assert profiler.observed(74.0).rate == pytest.approx(5.0 + 50 / 70)


def test_queueing_is_told_for_each_phase_as_a_mean() -> None:
    profiler = Profiler()
    profiler.add(1.0, "router", seen(4, [1, 1, 1, 1], queue_s=8.0))
    observed = profiler.observed(1.0)
    assert (observed.prefill_queue_s, observed.decode_queue_s) == (2.0, 4.0)


def test_a_workload_is_made_of_all_or_of_every_kth() -> None:
    profiler = Profiler()
    profiler.add(1.0, "router", seen(6, [1, 2, 3, 4, 5, 6]))
    observed = profiler.observed(1.0)
    whole, part = observed.workload(), observed.workload("half", part=(1, 2))
    assert (whole.prompts, whole.rate) == ((1, 2, 3, 4, 5, 6), 6.0)
    assert (part.prompts, part.outputs) == ((2, 4, 6), (4, 8, 12))


def test_a_workload_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match=r"got 0 that came and 0 lengths .* wait for more"):
        Profiler().observed(0.0).workload()


def test_a_tally_of_poisson_arrivals_knows_their_rate_and_burstiness() -> None:
    rng, tally, profiler, at = random.Random(0), Tally(0.0), Profiler(), 0.0
    for _ in range(5000):
        at += rng.expovariate(4.0)
        tally.arrived(at)
    profiler.add(at, "router", tally.take(at))
    observed = profiler.observed(at)
    assert observed.rate == pytest.approx(4.0, rel=0.05)
    assert observed.arrival_cv2 == pytest.approx(1.0, abs=0.1)


def test_a_tally_keeps_bounded_lengths_evenly() -> None:
    tally = Tally(0.0)
    for number in range(10 * MAX_PAIRS):
        tally.finished(number, 0, prefill_queue_s=1.0)
    found = tally.take(2.0)
    assert MAX_PAIRS // 2 <= len(found.prompts) <= MAX_PAIRS
    assert found.num_finished == 10 * MAX_PAIRS
    steps = {b - a for a, b in zip(found.prompts[1:], found.prompts[2:], strict=False)}
    assert steps == {16}
    assert set(found.outputs) == {1}
    assert found.prefill_queue_s == 10 * MAX_PAIRS
    assert tally.take(3.0) == seen(0, [])


def test_a_profiler_without_room_is_refused() -> None:
    with pytest.raises(ValueError, match=r"256 lengths or more, got 300.0 and 5"):
        Profiler(max_pairs=5)
