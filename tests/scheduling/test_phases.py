"""Phases are chosen as if all choices were looked at, and parted only where that gains."""

from dataclasses import replace

import numpy as np
import pytest

from scheduling.errors import TooLarge
from scheduling.phases.alike import classes
from scheduling.phases.bound import Phases, bounds, encoded
from scheduling.phases.choice import attained, choose_of_all, choose_phases
from scheduling.phases.routing import best_routing, route, routing_above
from scheduling.phases.table import PhaseTable
from scheduling.placement import PHASES
from tests.scheduling.phase_tables import LEAST_GAIN, best_value, drawn_table, value


def test_few_pipelines_get_the_best_phases_of_all() -> None:
    rng = np.random.default_rng(0)
    for case in range(200):
        table = drawn_table(rng, 1 + case % 3 if case % 10 else 4)
        choice = choose_phases(table, least_gain=LEAST_GAIN)
        found = value(table, choice.phases, choice.attainment)
        assert found == pytest.approx(best_value(table), abs=1e-6), f"case {case}"
        assert choice.is_proven


def test_all_choices_are_looked_at_without_missing_the_best() -> None:
    table = drawn_table(np.random.default_rng(1), 5)
    choice = choose_of_all(table, least_gain=LEAST_GAIN)
    found = value(table, choice.phases, choice.attainment)
    assert found == pytest.approx(best_value(table), abs=1e-6)


def test_tabu_is_within_a_hundredth_of_the_best_of_all() -> None:
    rng = np.random.default_rng(2)
    for case in range(4):
        table = drawn_table(rng, 7, levels=(0.9,))
        by_tabu = choose_phases(table, least_gain=LEAST_GAIN)
        by_all = choose_of_all(table, least_gain=LEAST_GAIN)
        assert not by_tabu.is_proven
        assert by_all.is_proven
        found = value(table, by_tabu.phases, by_tabu.attainment)
        assert found >= 0.99 * value(table, by_all.phases, by_all.attainment), f"case {case}"


def test_a_routing_keeps_to_every_room() -> None:
    rng = np.random.default_rng(3)
    for _ in range(100):
        num = int(rng.integers(2, 7))
        table = drawn_table(rng, num)
        phases = tuple(PHASES[int(k)] for k in rng.integers(3, size=num))
        found = best_routing(table, phases)
        given, taken = np.zeros(num), np.zeros(num)
        sent = np.zeros(len(table.line_room))
        for each in found.routes:
            assert each.share > 0
            given[each.prefill] += each.share * table.rate
            taken[each.decode] += each.share * table.rate
            sent += (
                each.share
                * table.rate
                * table.line_bytes[each.prefill, each.decode]
                * (each.prefill != each.decode)
            )
        for i, phase in enumerate(phases):
            own = {"both": table.both, "prefill": table.prefill, "decode": table.decode}[phase][i]
            done = taken[i] if phase == "decode" else given[i]
            assert done <= own * table.levels[-1] * (1 + 1e-6) + 1e-9
        assert (sent <= table.line_room * found.used * (1 + 1e-6) + 1e-9).all()
        assert found.served <= 1 + 1e-9
        assert 0 <= found.attainment <= found.served + 1e-9


def test_no_routing_exceeds_its_bound() -> None:
    rng = np.random.default_rng(4)
    for _ in range(60):
        num = int(rng.integers(1, 6))
        table = drawn_table(rng, num)
        phases = tuple(PHASES[int(k)] for k in rng.integers(3, size=num))
        most = bounds(table, encoded([phases]))[0]
        for level in range(len(table.levels)):
            assert route(table, phases, level).attainment <= most[level] + 1e-7


def test_a_routing_that_is_no_better_is_not_told() -> None:
    table = drawn_table(np.random.default_rng(5), 4)
    phases: Phases = ("prefill", "decode", "both", "both")
    found = best_routing(table, phases)
    assert routing_above(table, phases, found.attainment) is None
    assert routing_above(table, phases, found.attainment - 0.01) == found


def equal_pipelines(num: int, *, rate: float, good_pair: float) -> PhaseTable:
    """Pipelines that do 1 request a second of both phases, or 2 of either, all over good links."""
    ones = np.ones(num)
    return PhaseTable(
        rate=rate,
        levels=np.asarray([0.9]),
        both=ones,
        prefill=2 * ones,
        decode=2 * ones,
        good_both=np.full((1, num), 0.9),
        good_pair=np.full((1, 1, num, num), good_pair),
        pair_room=np.full((num, num), np.inf),
        line_room=np.zeros(0),
        line_bytes=np.zeros((num, num, 0)),
    )


@pytest.mark.parametrize("num", [4, 16])
def test_pipelines_serve_both_phases_where_parting_them_gains_nothing(num: int) -> None:
    choice = choose_phases(equal_pipelines(num, rate=0.5 * num, good_pair=0.9))
    assert set(choice.phases) == {"both"}
    assert choice.attainment == choice.colocated


@pytest.mark.parametrize("num", [4, 16])
def test_pipelines_are_parted_evenly_where_that_is_better(num: int) -> None:
    choice = choose_phases(equal_pipelines(num, rate=0.8 * num, good_pair=1.0))
    assert choice.phases.count("prefill") == choice.phases.count("decode") == num // 2
    assert choice.attainment == pytest.approx(1.0)
    assert choice.colocated == pytest.approx(0.9)


def test_pipelines_that_are_alike_are_looked_at_once() -> None:
    table = equal_pipelines(16, rate=10, good_pair=1.0)
    assert set(classes(table)) == {0}
    assert choose_phases(table).num_scored < 60
    other = replace(table, prefill=table.prefill * np.asarray([2.0, *([1.0] * 15)]))
    assert set(classes(other)) == {0, 1}


def test_a_start_is_never_made_worse() -> None:
    rng = np.random.default_rng(6)
    for _ in range(10):
        table = drawn_table(rng, 7)
        start = tuple(PHASES[int(k)] for k in rng.integers(3, size=7))
        choice = choose_phases(table, start=start, least_gain=0.0)
        assert choice.attainment >= attained(table, start).attainment - 1e-9


def test_what_cannot_be_chosen_for_is_refused() -> None:
    table = drawn_table(np.random.default_rng(7), 11)
    with pytest.raises(TooLarge, match="up to 10 pipelines, got 11"):
        choose_of_all(table)
    with pytest.raises(ValueError, match="start of 11 phases, got 2"):
        choose_phases(table, start=("both", "both"))
    with pytest.raises(ValueError, match="expected 11 of them, got 1"):
        attained(table, ("both",))
