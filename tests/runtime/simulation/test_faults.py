from pathlib import Path

import pytest

from runtime.errors import ConfigError
from runtime.simulation.faults import (
    Drain,
    Fault,
    Flip,
    Kill,
    Partition,
    Pause,
    Slow,
    Swap,
    Target,
    What,
    load_faults,
    parse_faults,
)
from tests.runtime.simulation.clusters import ONE_PIPELINE, cluster_of


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("kill stage 1.02", Kill(Target("stage", "1.2"))),
        ("kill node a", Kill(Target("node", "a"))),
        ("kill pipeline 1", Kill(Target("pipeline", "1"))),
        ("kill coordinator", Kill(Target("coordinator", "coordinator"))),
        ("partition a west for 2.5", Partition("a", "west", 2.5)),
        ("partition gateway b for 1", Partition("gateway", "b", 1.0)),
        ("slow east west by 3 for 4", Slow("east", "west", 3.0, 4.0)),
        ("pause stage 0.0 for 1", Pause(Target("stage", "0.0"), 1.0)),
        ("pause coordinator for 1", Pause(Target("coordinator", "coordinator"), 1.0)),
        ("swap 1 0:3,3:4", Swap("1", "0:3,3:4")),
        ("drain b within 30", Drain("b", 30.0)),
        ("flip 0=decode 1=prefill", Flip((("0", "decode"), ("1", "prefill")))),
    ],
)
def test_every_kind_of_line_is_understood(text: str, what: What) -> None:
    assert parse_faults(f"7.5  {text}  # why", cluster_of()) == (Fault(7.5, text, what),)


def test_faults_come_in_the_order_of_their_times_and_empty_lines_are_none() -> None:
    found = parse_faults("\n# none yet\n9 kill node a\n\n3 kill node b\n", cluster_of())
    assert [fault.at_s for fault in found] == [3.0, 9.0]


def test_a_cluster_without_pipelines_has_one() -> None:
    cluster = cluster_of(ONE_PIPELINE)
    (fault,) = parse_faults("1 swap 0 0:4", cluster)
    assert fault.what == Swap("0", "0:4")
    with pytest.raises(ConfigError, match="pipeline '1' is not one of 0"):
        parse_faults("1 swap 1 0:4", cluster)


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("soon kill node a", "expected seconds of 0 or more, got 'soon'"),
        ("-1 kill node a", "expected seconds"),
        ("inf kill node a", "expected seconds"),
        ("1", "got 'nothing'"),
        ("1 break node a", "got 'break'"),
        ("1 kill node x", "node 'x' is not one of a, b"),
        ("1 kill pipeline 2", "pipeline '2' is not one of 0, 1"),
        ("1 kill stage 1", "got 'stage 1'"),
        ("1 kill stage 2.0", "pipeline '2'"),
        ("1 kill stage 0.x", r"got 'stage 0.x'"),
        ("1 kill everything", "expected one of stage, node, pipeline, coordinator"),
        ("1 pause pipeline 0 for 1", "expected one of stage, node, coordinator"),
        ("1 pause node a", "expected: pause"),
        ("1 partition a b", "expected: partition"),
        ("1 partition a x for 1", "place 'x' is not one of a, b, east, west, coordinator"),
        ("1 slow a b by 0.5 for 1", "expected a factor of 1 or more"),
        ("1 swap 0", "expected: swap"),
        ("1 drain x within 1", "node 'x'"),
        ("1 flip", "expected: flip"),
        ("1 flip 0", "expected P=both|prefill|decode, got '0'"),
        ("1 flip 0=begin", "got '0=begin'"),
        ("1 flip 7=both", "pipeline '7' is not one of 0, 1"),
    ],
)
def test_what_is_not_understood_is_refused_by_its_line(line: str, complaint: str) -> None:
    with pytest.raises(ConfigError, match=f"2: .*{complaint}"):
        parse_faults(f"\n{line}\n", cluster_of())


def test_a_file_is_named_in_what_is_wrong_with_it(tmp_path: Path) -> None:
    path = tmp_path / "faults"
    path.write_text("1 kill node a\n")
    assert len(load_faults(path, cluster_of())) == 1
    path.write_text("1 kill node x\n")
    with pytest.raises(ConfigError, match="faults:1: node 'x'"):
        load_faults(path, cluster_of())
    with pytest.raises(ConfigError, match=r"cannot read .*none"):
        load_faults(tmp_path / "none", cluster_of())
