from dataclasses import replace

from runtime.chaos.outcome import Outcome
from runtime.chaos.report import in_all, make_report


def stream(text: str, *gaps_s: float, error: str = "", recoveries: int = 0) -> Outcome:
    return Outcome(
        0.0,
        text=text,
        num_tokens=len(text),
        gaps_s=list(gaps_s),
        error=error,
        recoveries=["recovered x"] * recoveries,
    )


EXPECTED = [stream("abcd")] * 6
GOT = [
    stream("abcd", 0.5, 10.5, recoveries=2),
    stream("abd", 12.0),
    stream("abbcd"),
    stream("xbcd"),
    stream("ab", error="stage 1 was lost"),
    stream("abcd", 10.0),
]


def test_every_fault_of_a_run_is_counted() -> None:
    report = make_report("kill stage:1", EXPECTED, GOT, max_gap_s=10.0)
    assert (report.streams, report.lost, report.repeated, report.wrong) == (6, 1, 1, 1)
    assert (report.late, report.errors, report.recoveries) == (2, 1, 2)
    assert report.longest_gap_s == 12.0
    assert not report.is_clean
    assert report.faults == (
        "lost 1, repeated 1, wrong 1, late 2, errors 1 (first error: stage 1 was lost)"
    )


def test_a_run_without_a_fault_is_clean_whatever_recovered() -> None:
    report = make_report("kill stage:1", EXPECTED[:1], [stream("abcd", 9.0, recoveries=3)], 10.0)
    assert report.is_clean
    assert (report.faults, report.recoveries) == ("", 3)


def test_a_request_that_was_sent_again_is_told_and_no_fault() -> None:
    again = replace(stream("abcd"), earlier=["ab", ""])
    report = make_report("kill gateway", EXPECTED[:1], [again], 10.0)
    assert (report.cut, report.is_clean) == (2, True)


def test_runs_are_added_up_and_one_fault_is_a_fault_of_all() -> None:
    clean = make_report("a", EXPECTED[:2], [stream("abcd", 3.0)] * 2, 10.0)
    total = in_all([clean, make_report("b", EXPECTED, GOT, 10.0)])
    assert (total.streams, total.lost, total.longest_gap_s) == (8, 1, 12.0)
    assert (total.is_clean, total.first_error) == (False, "stage 1 was lost")
    assert in_all([clean, clean]).is_clean
