"""What being ready costs: the median over the rounds, whichever service went first."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from benchmarks import overhead
from benchmarks.overhead import BARE, READY, Round, Wish, measure, table_of
from benchmarks.systems import Burst


def rounds(*pairs: tuple[float, float]) -> list[Round]:
    return [Round(ready=ready, bare=bare, foreign_cores=0.1) for ready, bare in pairs]


@pytest.mark.parametrize(("ready", "verdict"), [(97.0, "met"), (96.0, "missed")])
def test_the_table_tells_the_median_its_spread_and_whether_the_cost_is_met(
    ready: float, verdict: str
) -> None:
    table = table_of(rounds((90.0, 100.0), (ready, 100.0), (105.0, 100.0)))
    ratios = list(table.columns[3].cells)
    assert ratios[-3] == f"{ready / 100:.3f}×"
    assert ratios[-2] == "0.900–1.050"
    assert ratios[-1] == f"{(100 - ready) / 100:.1%}, ≤ 3% {verdict}"


def test_only_one_service_is_up_at_a_time_and_who_goes_first_alternates(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    started: list[tuple[str, ...]] = []
    running: list[tuple[str, ...]] = []

    class Played:
        def __init__(self, sets: tuple[str, ...]) -> None:
            self._sets = sets
            self._rates = iter([1.0, 5.0, 7.0, 6.0] if sets == BARE else [1.0, 3.0, 2.0, 9.0])

        def run(self, burst: Burst) -> float:
            assert running == [self._sets]
            assert burst.count == 16
            return next(self._rates)

    @contextmanager
    def service(model: str, arguments: list[str]) -> Iterator[Played]:
        assert model == "m"
        assert arguments[:2] == ["--layers", "0:7,7:12"]
        sets = tuple(argument for argument in arguments[2:] if argument != "--set")
        started.append(sets)
        running.append(sets)
        yield Played(sets)
        running.remove(sets)

    async def at_rest() -> bool:
        return True

    monkeypatch.setattr(overhead, "Remuda", service)
    monkeypatch.setattr(overhead, "wait_quiet", at_rest)
    burst = Burst(count=16, length=128, new=64, seed=0)
    found = measure(Wish(model="m", layers="0:7,7:12", burst=burst, bursts=3, rounds=2))
    assert started == [READY, BARE, BARE, READY]
    assert [(one.ready, one.bare) for one in found] == [(3.0, 6.0)] * 2
