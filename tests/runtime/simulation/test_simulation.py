"""Whole simulations: the real actors under faults, and every stream checked."""

import time
from pathlib import Path

import pytest

from runtime.errors import LaunchFailed
from runtime.simulation.quick_cache import CacheView
from runtime.simulation.report import summary, to_json
from scheduling.kv_transport import Encoding, KvLayout, KvTransport, wire_ratio
from tests.runtime.simulation.clusters import (
    APART,
    MODEL,
    NODES,
    ONE_PIPELINE,
    SERVING,
    TWO_PIPELINES,
    counts,
    marks,
    simulated,
)

NOTICED = (
    "kill stage 0.1",
    "kill node b",
    "kill pipeline 0",
    "partition a b for 3",
    "pause stage 0.2 for 3",
    "swap 0 0:2,2:3,3:4",
)
UNNOTICED = (
    "kill coordinator",
    "partition coordinator gateway for 2",
    "slow east west by 50 for 3",
    "pause stage 0.2 for 0.2",
)
FLIP, FLOP = "0=decode 1=prefill", "0=prefill 1=decode"
FLIPS = f"3 flip {FLIP}\n6 flip {FLOP}\n8 flip 0=decode 1=decode"
EITHER = ("pause coordinator for 3", "pause node b for 3")


def test_every_request_ends_with_the_right_tokens() -> None:
    found = counts(simulated())
    assert found["sent"] > 20
    assert (found["done"], found["wrong"], found["checked"]) == (found["sent"], 0, found["sent"])


def test_time_may_pass_as_it_does() -> None:
    began = time.monotonic()
    history = simulated(duration_s=1, is_live=True)
    found = counts(history)
    assert (found["done"], found["wrong"]) == (found["sent"], 0)
    assert history.start_s >= began  # the clock is everybody's


@pytest.mark.parametrize("fault", [*NOTICED, *UNNOTICED, *EITHER])
def test_no_token_is_wrong_whatever_goes_wrong(fault: str) -> None:
    history = simulated(faults=f"3 {fault}", duration_s=6)
    found = counts(history)
    assert found["wrong"] == 0
    assert found["done"] == found["sent"] == found["checked"]
    assert marks(history, "fault") == [fault]
    assert marks(history, "missed") == []
    has_changed = len(marks(history, "plan")) > 2  # it was loading, then ready
    assert has_changed == (fault in NOTICED) or fault in EITHER


@pytest.mark.parametrize("fault", ["kill node a", "kill node b", "kill stage 1.1"])
def test_pipelines_that_serve_phases_apart_hand_off_and_outlive_faults(fault: str) -> None:
    history = simulated(APART, faults=f"3 {fault}", duration_s=6)
    found = summary(history)
    assert found["requests"]["wrong"] == 0
    assert found["requests"]["done"] == found["requests"]["sent"]
    assert found["hand_offs"]["done"] > 5
    assert found["hand_offs"]["bytes"] % (4 * 2 * 64 * 2 * 2) == 0  # whole blocks, KV, heads, bf16


def test_a_flip_is_reported_and_no_gap_is_longer_for_it_than_hand_offs_are() -> None:
    steady, flipped = (simulated(APART, faults=faults) for faults in ("", FLIPS))
    *done, refused = marks(flipped, "change")
    assert done == [f"flip {FLIP}: done, epoch 3", f"flip {FLOP}: done, epoch 4"]
    assert "expected a pipeline that serves prefill or both" in refused
    found = counts(flipped)
    assert (found["done"], found["wrong"]) == (found["sent"], 0)
    longest = [summary(history)["longest_gap_s"]["max"] for history in (steady, flipped)]
    assert longest[1] < 1.2 * longest[0]


def test_the_kv_that_is_handed_off_leaves_on_the_link_to_who_gets_it() -> None:
    """Over a slow line a request's second token comes later."""
    slow = '[[links]]\nbetween = ["east", "west"]\nbytes_per_s = 1e5\nlatency_s = 0.01\n'
    near, far = (summary(simulated(APART + line, duration_s=4)) for line in ("", slow))
    for found in (near, far):
        assert found["requests"]["done"] == found["requests"]["sent"]
        assert found["hand_offs"]["done"] > 3
    assert far["longest_gap_s"]["p50"] > 2 * near["longest_gap_s"]["p50"]


_PAIRS: list[tuple[KvTransport, Encoding]] = [("none", "none"), ("int4", "int4"), ("auto", "int8")]


@pytest.mark.parametrize(("asked", "done"), _PAIRS)
def test_kv_that_is_handed_off_in_fewer_bits_is_less_and_its_requests_end_right(
    asked: KvTransport, done: Encoding
) -> None:
    line = '[[links]]\nbetween = ["east", "west"]\nbytes_per_s = 1e6\nlatency_s = 0.001\n'
    text = APART.replace("[serving]", f'[serving]\nkv_transport = "{asked}"') + line
    found = summary(simulated(text, duration_s=3))
    assert found["requests"]["wrong"] == 0
    assert found["requests"]["done"] == found["requests"]["sent"]
    counted = found["hand_offs"]
    assert counted["done"] > 3
    ratio = wire_ratio(done, KvLayout(block_tokens=4, head_dim=64, itemsize=2))
    whole = counted["bytes"] + counted["saved_bytes"]
    assert counted["bytes"] == pytest.approx(ratio * whole, rel=0.01)


def test_a_stage_that_dies_shows_in_gaps_and_recoveries() -> None:
    calm, shaken = (summary(simulated(faults=f)) for f in ("", "3 kill stage 0.1"))
    assert (calm["recoveries"], calm["recovered_requests"]) == (0, 0)
    assert shaken["recoveries"] >= shaken["recovered_requests"] > 0
    assert shaken["longest_gap_s"]["max"] > calm["longest_gap_s"]["max"]


def test_kv_that_a_swap_forgets_to_move_is_found_in_the_tokens(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(CacheView, "write", lambda *args: None)
    found = counts(simulated(faults="3 swap 0 0:2,2:3,3:4", duration_s=5))
    assert found["wrong"] > 0


def test_a_swap_is_reported_and_the_stages_have_the_new_layers() -> None:
    history = simulated(faults="3 swap 0 0:2,2:3,3:4")
    assert marks(history, "change") == ["swap 0 0:2,2:3,3:4: done, epoch 2"]
    stages = summary(history)["stages"]
    assert [stage["layers"] for stage in stages] == [[0, 2], [2, 3], [3, 4]]


def test_a_swap_that_makes_no_sense_is_refused_with_a_reason() -> None:
    history = simulated(faults="3 swap 0 0:2", duration_s=5)
    (told,) = marks(history, "change")
    assert told.startswith("swap 0 0:2: ")
    assert "done" not in told


def test_a_drained_node_leaves_and_nobody_starts_it_again() -> None:
    history = simulated(faults="2 drain b within 10\n6 kill node b", duration_s=7)
    assert counts(history)["wrong"] == 0
    assert marks(history, "change") == ["drain b: done, epoch 2"]
    assert marks(history, "missed") == ["node b is not there"]


def test_a_stage_that_is_not_there_is_missed() -> None:
    history = simulated(faults="1 kill stage 0.7\n2 pause stage 0.9 for 1", duration_s=3)
    assert marks(history, "missed") == ["stage 0.7 is not there", "stage 0.9 is not there"]


def test_a_pipeline_that_is_not_there_is_missed() -> None:
    history = simulated(faults="2 kill node a\n2.01 kill pipeline 0", duration_s=4)
    assert marks(history, "missed") == ["pipeline 0 is not there"]


def test_two_pipelines_share_the_load() -> None:
    stages = summary(simulated(TWO_PIPELINES))["stages"]
    assert [stage["stage"] for stage in stages] == ["0.0", "1.0", "1.1"]
    assert all(stage["steps"] > 0 for stage in stages)


@pytest.mark.parametrize("faults", ["", "2 kill stage 0.1\n3 slow a b by 2 for 1\n4 kill node b"])
def test_one_seed_gives_one_result_to_the_byte(faults: str) -> None:
    first, second = (to_json(summary(simulated(faults=faults, duration_s=5))) for _ in range(2))
    other = to_json(summary(simulated(faults=faults, duration_s=5, seed=1)))
    assert first == second
    assert first != other


def test_a_slow_link_between_stages_slows_every_token() -> None:
    usual, slowed = (
        summary(simulated(faults=f, duration_s=3)) for f in ("", "0 slow east west by 20 for 500")
    )
    assert slowed["tpot_s"]["p50"] > usual["tpot_s"]["p50"]


def test_hidden_states_take_the_time_of_their_bytes_on_the_link_to_the_next_stage() -> None:
    link = '[[links]]\nbetween = ["east", "west"]\nbytes_per_s = {}\nlatency_s = 0.01\n'
    wide, narrow = (
        summary(simulated(ONE_PIPELINE + link.format(rate), duration_s=3)) for rate in (1e8, 1e5)
    )
    a_token_s = 512 * 2 / 1e5
    slower_s = narrow["tpot_s"]["p50"] - wide["tpot_s"]["p50"]
    assert slower_s > 0.9 * a_token_s


def test_more_load_than_the_queues_hold_is_refused() -> None:
    text = ONE_PIPELINE.replace("max_running = 8", "max_running = 1\nmax_waiting = 1")
    found = counts(simulated(text.replace("rate = 4", "rate = 200"), duration_s=1))
    assert found["failed"]["queue_full"] > 0
    assert found["done"] + found["num_failed"] == found["sent"]


def test_a_stream_that_nothing_comes_of_ends_by_the_token_timeout() -> None:
    text = ONE_PIPELINE.replace("max_running = 8", "max_running = 8\ntoken_timeout_s = 0.01")
    found = counts(simulated(text, duration_s=2))
    assert found["failed"] == {"timeout": found["num_failed"]}
    assert found["num_failed"] > 0


def test_requests_that_come_while_nothing_serves_and_no_more_are_held_fail() -> None:
    text = ONE_PIPELINE.replace("max_running = 8", "max_running = 8\nmax_held = 1")
    found = counts(simulated(text, "2 kill node a\n2 kill node b", duration_s=5))
    assert found["failed"]["no_pipeline"] > 0
    assert found["wrong"] == 0


def test_a_model_that_does_not_fit_says_so() -> None:
    text = MODEL + NODES.replace("60000000", "6000") + SERVING
    with pytest.raises(LaunchFailed, match="no split of 4 layers fits"):
        simulated(text)


def test_phases_follow_what_comes() -> None:
    differ = Path("examples/clusters/compute_and_bandwidth.toml").read_text()
    pipelines = '[[pipelines]]\nnodes = ["compute"]\n[[pipelines]]\nnodes = ["bandwidth"]\n'
    targets = "[planner]\nttft_s = 3\ntpot_s = 0.12\n"
    load = "[load]\nrate = 1.5\nmean_prompt = 1500\nmean_output = 100\nspread = 0.2\n"
    history = simulated("\n".join((differ, pipelines, targets, load)), duration_s=80)
    found = counts(history)
    assert (found["done"], found["wrong"]) == (found["sent"], 0)
    assert len(marks(history, "plan", lambda text: text.endswith("ready serves prefill"))) == 1
    assert len(marks(history, "plan", lambda text: text.endswith("ready serves decode"))) == 1


@pytest.mark.parametrize(("bytes_per_s", "is_worth_it"), [(1e10, True), (1e6, False)])
def test_phases_are_chosen_by_the_links_of_the_file(bytes_per_s: float, is_worth_it: bool) -> None:
    differ = Path("examples/clusters/compute_and_bandwidth.toml").read_text()
    line = f"latency_s = 0.001\nbytes_per_s = {bytes_per_s}\n"
    more = f"""
[[links]]
between = ["compute", "bandwidth"]
{line}
[[pipelines]]
nodes = ["compute"]
[[pipelines]]
nodes = ["bandwidth"]
[planner]
ttft_s = 3
tpot_s = 0.12
[load]
rate = 1.5
mean_prompt = 1500
mean_output = 100
spread = 0.2
"""
    history = simulated(differ + more, duration_s=70)
    flips = marks(history, "plan", lambda text: text.endswith("ready serves prefill"))
    assert bool(flips) == is_worth_it
