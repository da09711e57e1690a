import random
from itertools import islice
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.errors import ConfigError
from runtime.simulation.cluster_file import LoadFile
from runtime.simulation.load import Arrival, limited, poisson, trace

HEAD = "TIMESTAMP,ContextTokens,GeneratedTokens\n"
ROWS = (
    "2023-11-16 18:15:50.9951690,396,109\n"
    "2023-11-16 18:15:46.9951690,374,44\n"
    "2023-11-16 18:15:54.9951690,879,0\n"
)


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "trace.csv"
    path.write_text(text)
    return path


def test_a_poisson_load_has_the_rate_and_lengths_it_was_asked_for() -> None:
    load = LoadFile(rate=5.0, mean_prompt=1000.0, mean_output=200.0)
    found = list(islice(poisson(random.Random(1), load), 20000))
    assert found[-1].at_s / len(found) == pytest.approx(1 / 5, rel=0.05)
    assert sum(a.num_prompt for a in found) / len(found) == pytest.approx(1000, rel=0.05)
    assert sum(a.num_output for a in found) / len(found) == pytest.approx(200, rel=0.05)


def test_without_spread_all_are_alike() -> None:
    load = LoadFile(mean_prompt=7.0, mean_output=3.0, spread=0.0)
    found = list(islice(poisson(random.Random(1), load), 5))
    assert {(a.num_prompt, a.num_output) for a in found} == {(7, 3)}


def test_a_trace_begins_at_its_first_request(tmp_path: Path) -> None:
    assert trace(written(tmp_path, HEAD + ROWS)) == [
        Arrival(0.0, 374, 44),
        Arrival(4.0, 396, 109),
        Arrival(8.0, 879, 1),
    ]


def test_a_trace_is_stretched_to_a_rate(tmp_path: Path) -> None:
    found = trace(written(tmp_path, HEAD + ROWS), rate=0.5)
    assert [a.at_s for a in found] == [0.0, 2.0, 4.0]


def test_a_trace_of_one_request_has_no_rate_to_be_stretched_to(tmp_path: Path) -> None:
    row = ROWS.splitlines()[0]
    assert trace(written(tmp_path, HEAD + row), rate=3.0) == [Arrival(0.0, 396, 109)]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("a,b\n1,2\n", "expected the columns TIMESTAMP"),
        ("", "expected the columns"),
        (HEAD, "no requests"),
        (HEAD + "yesterday,1,2\n", "trace.csv:2"),
        (HEAD + "2023-11-16 18:15:46,many,2\n", "trace.csv:2"),
        (HEAD + "2023-11-16 18:15:46,1\n", "trace.csv:2"),
    ],
)
def test_what_is_no_trace_is_refused(tmp_path: Path, text: str, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        trace(written(tmp_path, text))


def test_a_trace_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read .*none.csv"):
        trace(tmp_path / "none.csv")


@given(
    st.lists(st.builds(Arrival, st.floats(0, 100), st.integers(1, 300), st.integers(1, 300))),
    st.integers(2, 200),
    st.one_of(st.none(), st.floats(0, 100)),
    st.one_of(st.none(), st.integers(1, 5)),
)
def test_no_request_comes_late_or_is_too_long_or_too_many(
    arrivals: list[Arrival], max_len: int, duration_s: float | None, count: int | None
) -> None:
    ordered = sorted(arrivals, key=lambda arrival: arrival.at_s)
    found = limited(iter(ordered), max_len, duration_s, count)
    for one, fitted in zip(ordered, found, strict=False):
        assert fitted.at_s == one.at_s
        assert 1 <= fitted.num_prompt <= one.num_prompt
        assert 1 <= fitted.num_output <= one.num_output
        assert fitted.num_prompt + fitted.num_output <= max_len
    in_time = sum(duration_s is None or a.at_s <= duration_s for a in ordered)
    assert len(found) == min(in_time, count or in_time)
