import pytest

from benchmarks.hop import ACTORS, ENCRYPTED, KINDS, Cost, HopTimes, measure_hops, table_of
from benchmarks.hop_ends import ACK_EVERY, PING, STREAM, WINDOW, Rally


@pytest.mark.parametrize("kinds", [ACTORS, ENCRYPTED])
async def test_both_kinds_of_traffic_cross_between_two_processes_both_ways(
    kinds: tuple[str, str],
) -> None:
    found = await measure_hops(rounds=2, count=2 * WINDOW, num_bytes=16 << 10, kinds=kinds)
    assert set(found) == set(KINDS)
    for times in found.values():
        assert len(times.ours) == len(times.bare) == 2
        assert all(cost.wall_us > 0 for costs in times.both for cost in costs)


async def test_a_rally_of_pings_has_one_on_its_way_and_ends_with_the_last_answer() -> None:
    sent: list[int] = []
    rally = Rally(PING, 3, sent.append)
    rally.begin()
    for expected in (1, 2, 3):
        assert len(sent) == expected
        assert not rally.done.done()
        rally.on_answer()
    assert rally.done.done()
    assert sent == [PING] * 3


async def test_a_stream_never_has_more_than_its_window_on_its_way() -> None:
    sent: list[int] = []
    rally = Rally(STREAM, 2 * WINDOW, sent.append)
    rally.begin()
    for num_answers in range(2 * WINDOW // ACK_EVERY):
        assert len(sent) - num_answers * ACK_EVERY <= WINDOW
        rally.on_answer()
    assert rally.done.done()
    assert sent == [STREAM] * (2 * WINDOW)


@pytest.mark.parametrize(("ours_us", "verdict"), [(14.0, "met"), (16.0, "missed")])
def test_the_table_says_whether_the_target_is_met(ours_us: float, verdict: str) -> None:
    ours, bare = Cost(wall_us=ours_us, cpu_us=3.0), Cost(wall_us=10.0, cpu_us=2.0)
    times = HopTimes(ours=[ours], bare=[bare])
    assert times.ratio("wall_us") == pytest.approx(ours_us / 10)
    assert times.ratio("cpu_us") == pytest.approx(1.5)
    cells = [list(column.cells) for column in table_of({"ping-pong": times}, 16).columns]
    assert cells[-1] == [f"≤ 1.5 {verdict}"]
    encrypted = table_of({"ping-pong": times}, 16, ENCRYPTED)
    assert [column.header for column in encrypted.columns][1:3] == list(ENCRYPTED)
    assert list(encrypted.columns[-1].cells) == ["none"]
