"""The benchmarks of phases: what counts as in time, as added, as met."""

import pytest

from benchmarks import phases_flip, phases_goodput, phases_hand_off
from benchmarks.gaps import Steady
from benchmarks.load import Target
from benchmarks.phases_flip import Clients, Flip
from benchmarks.phases_goodput import LOADS, Load, Planned, Served
from benchmarks.streams import Stream
from runtime.simulation.client import Outcome
from runtime.simulation.cluster_reading import load_cluster
from runtime.simulation.load import Arrival

LOAD = Load(cluster="any", prompt=10, output=11, ttft_s=1.0, tpot_s=0.1)


def outcome(ttft_s: float, tpot_s: float, ended: str = "length") -> Outcome:
    found = Outcome(number=0, arrival=Arrival(0.0, 10, 11), sent_at=5.0, ended=ended)
    found.first_at, found.num_tokens = 5.0 + ttft_s, 11
    found.last_at = found.first_at + 10 * tpot_s
    return found


@pytest.mark.parametrize(
    ("found", "is_in_time"),
    [
        (outcome(1.0, 0.09), True),
        (outcome(1.1, 0.09), False),
        (outcome(1.0, 0.11), False),
        (outcome(1.0, 0.09, "timeout"), False),
        (Outcome(number=0, arrival=Arrival(0.0, 1, 1), ended="queue_full"), False),
    ],
)
def test_a_request_is_in_time_that_ended_well_and_kept_both(
    found: Outcome, is_in_time: bool
) -> None:
    assert LOAD.is_in_time(found) is is_in_time


def served(predicted: float, live: float, *phases: str) -> Served:
    cluster = load_cluster(phases_goodput.EXAMPLES / "two_alike.toml")
    planned = Planned(cluster=cluster, requests_per_s=predicted, phases=phases)
    return Served(planned=planned, rate=live, simulated=live, live=live)


@pytest.mark.parametrize(
    ("predicted", "live", "verdict"),
    [(2.0, 1.3, "ok"), (2.0, 1.29, "MISSED"), (1.0, 0.98, "ok"), (1.0, 0.97, "MISSED")],
)
def test_a_gain_is_asked_for_where_it_is_predicted(
    predicted: float, live: float, verdict: str
) -> None:
    together, ours = served(1.0, 1.0, "both"), served(predicted, live, "prefill", "decode")
    table = phases_goodput.table_of(LOAD, together, ours)
    assert verdict in str(list(table.columns[-1].cells)[-1])


def test_the_planner_parts_phases_where_machines_differ_and_not_where_they_are_alike() -> None:
    found = [phases_goodput.plan_for(load, "slo", apart=True, seconds=1.0) for load in LOADS]
    assert [plan.phases for plan in found] == [("prefill", "decode"), ("both", "both")]


def test_a_hand_off_adds_no_more_than_its_bytes_on_the_link_and_less_in_fewer_bits() -> None:
    found = {added.encoding: added for added in phases_hand_off.measure((256,))}
    assert all(added.is_met for added in found.values())
    assert found["int4"].ratio < found["int8"].ratio < found["none"].ratio
    assert phases_hand_off.table_of(list(found.values())).row_count == 3


def test_a_flip_is_told_by_its_gaps_and_a_stream_without_its_end_is_lost() -> None:
    steady = Steady(p50_s=0.01, p99_s=0.02, max_s=0.03)
    flip = Flip(
        steady=steady, longest_before_s=0.03, longest_s=0.05, shown_s=0.1, foreign_cores=0.0
    )
    assert flip.gap_ratio == 2.5
    assert phases_flip.table_of([flip]).row_count == 1
    clients = Clients(Target(url="", model="", new=1), [[1]])
    clients.streams = [Stream(is_whole=True), Stream(times=[1.0, 2.0])]
    assert clients.num_lost == 1
    assert clients.times == [[], [1.0, 2.0]]
