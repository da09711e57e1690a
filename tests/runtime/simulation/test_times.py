import csv
from pathlib import Path

from runtime.simulation.client import Outcome
from runtime.simulation.load import Arrival
from runtime.simulation.times import RequestTimes, attainment, save_times, times_of


def outcome(ended: str = "length", *, num_tokens: int = 3, last_at: float = 13.0) -> Outcome:
    return Outcome(
        number=0,
        arrival=Arrival(2.0, 7, 3),
        sent_at=10.0,
        first_at=11.0 if num_tokens else None,
        last_at=last_at,
        num_tokens=num_tokens,
        ended=ended,
    )


def times(*outcomes: Outcome) -> list[RequestTimes]:
    return times_of(outcomes)


def test_times_are_those_to_the_first_token_and_a_token_after_it() -> None:
    (found,) = times(outcome())
    assert (found.at_s, found.num_prompt, found.num_tokens) == (2.0, 7, 3)
    assert (found.ttft_s, found.tpot_s, found.e2e_s, found.ended) == (1.0, 1.0, 3.0, "length")


def test_a_request_of_one_token_has_none_after_it_and_one_that_failed_has_no_end() -> None:
    one, cut, none = times(
        outcome(num_tokens=1, last_at=11.0), outcome("timeout"), outcome("queue_full", num_tokens=0)
    )
    assert (one.ttft_s, one.tpot_s, one.e2e_s) == (1.0, None, 1.0)
    assert (cut.ttft_s, cut.tpot_s, cut.e2e_s) == (1.0, None, None)
    assert (none.ttft_s, none.tpot_s, none.e2e_s) == (None, None, None)


def test_both_latencies_are_to_be_kept_and_a_failed_request_keeps_neither() -> None:
    found = times(outcome(), outcome(last_at=12.0), outcome("timeout"))
    assert attainment(found, 1.0, 1.0) == 2 / 3
    assert attainment(found, 1.0, 0.5) == 1 / 3
    assert attainment(found, 0.9, 9.0) == 0.0
    assert attainment([], 9.0, 9.0) == 0.0


def test_times_are_written_a_row_each(tmp_path: Path) -> None:
    path = tmp_path / "times.csv"
    save_times(times(outcome(), outcome("queue_full", num_tokens=0)), path)
    with path.open(encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines))
    assert rows[0] == {
        "at_s": "2.0",
        "num_prompt": "7",
        "num_tokens": "3",
        "ttft_s": "1.0",
        "tpot_s": "1.0",
        "e2e_s": "3.0",
        "ended": "length",
    }
    assert rows[1]["ttft_s"] == ""
    assert rows[1]["ended"] == "queue_full"
