"""A slowed device: the emulated time is what the work needed, by the speed."""

import pytest

from models.device import DeviceMeasurement
from models.errors import ModelError
from models.slowness import MAX_ALIKE, MAX_KINDS, Slowness, slowness_of


class Clocks:
    """A wall and a processor clock that only work and sleep move."""

    def __init__(self) -> None:
        self.wall_s = self.used_s = 0.0
        self.slept: list[float] = []

    def slowness(self, speed: float) -> Slowness:
        return Slowness(speed, lambda: self.wall_s, lambda: self.used_s, self.sleep)

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.wall_s += seconds

    def work(self, needed_s: float, waited_s: float = 0.0) -> str:
        self.wall_s += needed_s + waited_s
        self.used_s += needed_s
        return "done"


@pytest.mark.parametrize("speed", [0.25, 0.5])
def test_a_slowed_device_takes_as_much_longer_as_it_is_slower(speed: float) -> None:
    clocks = Clocks()
    assert clocks.slowness(speed).run(lambda: clocks.work(0.1)) == "done"
    assert clocks.wall_s == pytest.approx(0.1 / speed)


def test_who_waited_for_a_core_sleeps_so_much_less() -> None:
    clocks = Clocks()
    clocks.slowness(0.5).run(lambda: clocks.work(0.1, waited_s=0.06))
    assert clocks.slept == [pytest.approx(0.04)]
    clocks.slowness(0.5).run(lambda: clocks.work(0.1, waited_s=0.5))
    assert len(clocks.slept) == 1


def test_a_step_that_was_disturbed_takes_what_the_least_of_its_kind_needed() -> None:
    clocks = Clocks()
    slowness = clocks.slowness(0.25)
    slowness.run(lambda: clocks.work(0.1), "small")
    slowness.run(lambda: clocks.work(0.3), "small")
    slowness.run(lambda: clocks.work(0.3), "large")
    assert clocks.slept == [pytest.approx(0.3), pytest.approx(0.1), pytest.approx(0.9)]
    for _ in range(MAX_ALIKE):  # what was long ago is forgotten
        slowness.run(lambda: clocks.work(0.2), "small")
    assert clocks.slept[-1] == pytest.approx(0.6)


def test_kinds_of_steps_are_bounded() -> None:
    clocks = Clocks()
    slowness = clocks.slowness(0.5)
    for kind in range(MAX_KINDS + 3):
        slowness.run(lambda: clocks.work(0.1), kind)
    assert len(slowness._needed) <= MAX_KINDS


def test_a_device_at_its_own_speed_never_sleeps_and_is_told_as_measured() -> None:
    clocks, found = Clocks(), measurement()
    clocks.slowness(1.0).run(lambda: clocks.work(0.1))
    assert clocks.slept == []
    assert Slowness(1.0).measured(found) is found


def test_a_slowed_device_is_told_with_its_speed_in_name_and_rates() -> None:
    told = Slowness(0.25).measured(measurement())
    assert told.name == "c at 0.25 of its speed"
    assert (told.flops_per_s, told.bytes_per_s, told.layer_overhead_s) == (25.0, 2.5, 4e-3)
    assert told.memory_bytes == 8


@pytest.mark.parametrize("speed", [0.0, -1.0, 1.5, float("nan")])
def test_a_speed_that_cannot_be_played_is_refused(speed: float) -> None:
    with pytest.raises(ModelError, match="expected above 0 and 1 at most"):
        Slowness(speed)


def test_of_a_gpu_the_wall_counts_since_its_work_needs_no_processor() -> None:
    assert slowness_of("cuda:0", 0.5).used is slowness_of("cuda:0", 0.5).clock
    assert slowness_of("cpu", 0.5).used is not slowness_of("cpu", 0.5).clock


def measurement() -> DeviceMeasurement:
    return DeviceMeasurement(
        device="cpu",
        name="c",
        memory_bytes=8,
        memory_free_bytes=4,
        flops_per_s=100.0,
        bytes_per_s=10.0,
        layer_overhead_s=1e-3,
    )
