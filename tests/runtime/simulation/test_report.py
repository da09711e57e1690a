import doctest
import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from runtime.simulation import report
from runtime.simulation.client import Outcome
from runtime.simulation.load import Arrival
from runtime.simulation.record import Record
from runtime.simulation.report import percentiles, show, summary, to_json
from runtime.simulation.simulation import History
from tests.runtime.simulation.test_record import plan


def outcome(number: int, ended: str = "length", **facts: object) -> Outcome:
    usual: dict[str, object] = {
        "sent_at": 10.0,
        "first_at": 11.0,
        "last_at": 13.0,
        "num_tokens": 5,
        "longest_gap_s": 0.5,
        "is_right": True,
    }
    arrival = Arrival(0.0, 100, 5)
    return Outcome(number=number, arrival=arrival, ended=ended, **{**usual, **facts})  # type: ignore[arg-type]


def history(*outcomes: Outcome) -> History:
    record = Record(10.0)
    record.on_plan(9.0, plan(1, "ready"))
    record.on_step("a/0", 11.0, 16.0, 7)
    record.mark(12.0, "fault", "kill [stage] 0.0")
    return History(start_s=10.0, end_s=20.0, outcomes=outcomes, record=record)


def test_the_examples_hold() -> None:
    assert doctest.testmod(report).failed == 0


@given(st.lists(st.integers(-(10**6), 10**6), min_size=1))
def test_a_percentile_is_a_value_that_so_many_do_not_exceed(values: list[int]) -> None:
    found = percentiles(map(float, values))
    assert found["max"] == max(values)
    for share in (50, 90, 99):
        value = found[f"p{share}"]
        assert sum(v <= value for v in values) * 100 >= share * len(values)
        assert sum(v < value for v in values) * 100 < share * len(values)


def test_nothing_has_no_percentiles() -> None:
    assert percentiles([]) == {}


def test_done_failed_wrong_and_checked_are_counted() -> None:
    found = summary(
        history(
            outcome(0),
            outcome(1, is_right=None, ended="stop"),
            outcome(2, is_right=False),
            outcome(3, is_right=None, is_whole=False),
            outcome(4, ended="timeout", is_right=None),
            outcome(5, ended="queue_full", first_at=None, num_tokens=0, is_right=None),
            outcome(6, ended="timeout", is_right=None),
        )
    )["requests"]
    assert found == {
        "sent": 7,
        "done": 4,
        "num_failed": 3,
        "failed": {"queue_full": 1, "timeout": 2},
        "wrong": 2,
        "checked": 2,
    }


def test_rates_and_times_are_of_what_was_done() -> None:
    done, failed = outcome(0, num_recoveries=2), outcome(1, ended="timeout", longest_gap_s=3.0)
    found = summary(history(done, failed))
    assert found["throughput"] == {
        "requests_per_s": 0.1,
        "prompt_tokens_per_s": 10.0,
        "output_tokens_per_s": 0.5,
        "steady_output_tokens_per_s": 0.0,
    }
    assert [found[key]["p99"] for key in ("ttft_s", "tpot_s", "e2e_s")] == [1.0, 0.5, 3.0]
    assert found["longest_gap_s"]["max"] == 3.0
    assert (found["recoveries"], found["recovered_requests"]) == (2, 1)


def test_a_request_of_one_token_has_no_time_per_token() -> None:
    found = summary(history(outcome(0, num_tokens=1)))
    assert found["tpot_s"] == {}
    assert found["longest_gap_s"] == {}
    assert found["ttft_s"]["p50"] == 1.0


def test_a_stage_is_idle_while_it_has_no_step() -> None:
    (stage,) = summary(history(outcome(0)))["stages"]
    assert stage == {
        "stage": "0.0",
        "worker": "a/0",
        "device": "T4",
        "layers": [0, 4],
        "steps": 1,
        "tokens": 7,
        "idle": 0.5,
    }


def test_marks_count_from_when_the_service_was_up() -> None:
    marks = summary(history(outcome(0)))["marks"]
    assert [(mark["at_s"], mark["kind"]) for mark in marks] == [(-1.0, "plan"), (2.0, "fault")]


def test_json_is_what_was_found() -> None:
    found = summary(history(outcome(0)))
    assert json.loads(to_json(found)) == found


@pytest.mark.parametrize("failed", [False, True])
def test_a_person_is_shown_all_of_it(failed: bool) -> None:
    outcomes = [outcome(0), *([outcome(1, ended="timeout")] if failed else [])]
    out = io.StringIO()
    show(summary(history(*outcomes)), Console(file=out, width=120))
    text = out.getvalue()
    assert ("1 done, 1 failed (timeout 1)" if failed else "1 done, 0 failed, 0 wrong of") in text
    for part in ("to first token", "a/0", "0:4", "50%", "kill [stage] 0.0"):
        assert part in text
