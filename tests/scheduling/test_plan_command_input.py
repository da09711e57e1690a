"""Impossible and absurd input to the planner's commands: a sentence, 1 or 2, never a traceback."""

import io
import json
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scheduling.command import STOPPED, main
from tests.scheduling.solvers.clusters import CountingClock

NODE: dict[str, Any] = {"id": "a", "devices": ["A100-40G"]}
LINK: dict[str, Any] = {"between": ["a", "b"], "bytes_per_s": 1e9, "latency_s": 0.001}
CLUSTER: dict[str, Any] = {
    "nodes": [NODE, {"id": "b", "devices": ["L4"], "site": "far"}],
    "links": [LINK],
    "model": {"name": "llama-8b"},
}
CONFIG = {
    "num_hidden_layers": 4,
    "hidden_size": 1024,
    "num_attention_heads": 8,
    "vocab_size": 32000,
    "intermediate_size": 4096,
}
HEADER = "TIMESTAMP,ContextTokens,GeneratedTokens\n"
ROW = "2023-11-16 18:15:46.6805900,374,44\n"


def toml(value: Any) -> str:
    """A value in TOML; tables inline."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(k)} = {toml(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    if isinstance(value, bool | str):
        return json.dumps(value)
    return repr(value)


def document(data: dict[str, Any]) -> str:
    return "\n".join(f"{json.dumps(key)} = {toml(value)}" for key, value in data.items())


def run(*arguments: object) -> tuple[int, str]:
    """What a command ends with, and what it says on stderr at last."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        try:
            code = main([str(argument) for argument in arguments], clock=CountingClock(0.05))
        except SystemExit as error:
            code = int(error.code or 0)
    lines = err.getvalue().splitlines()
    return code, lines[-1] if lines else ""


def check(code: int, said: str) -> None:
    """Either it went well, or one sentence says what was wrong."""
    assert code in (0, 1, 2)
    if code:
        assert "error: " in said, said
        assert len(said) < 1000, said


@pytest.fixture
def cluster(tmp_path: Path) -> Path:
    path = tmp_path / "cluster.toml"
    path.write_text(document(CLUSTER))
    return path


@pytest.mark.parametrize("text", ["0", "-1", "nan", "inf", "-inf", "1e400", "", "x", "1e-300"])
@pytest.mark.parametrize("option", ["--rate", "--budget", "--time", "--slo", "--seed", "--max-tp"])
def test_a_number_out_of_reach_is_a_usage_error(cluster: Path, option: str, text: str) -> None:
    if (option, text) == ("--seed", "0"):
        return
    typed = f"ttft={text}" if option == "--slo" else text
    code, said = run(cluster, "--objective", "slo", f"{option}={typed}")
    assert code == 2
    assert f"{option}: expected a" in said
    assert "got " in said


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"links": [{**LINK, "between": ["a", "z"]}]}, "'z' is no node and no site"),
        ({"links": [{**LINK, "bytes_per_s": float("nan")}]}, "links[0].bytes_per_s"),
        ({"links": [{**LINK, "latency_s": -1.0}]}, "links[0].latency_s"),
        ({"links": [LINK, {**LINK, "between": ["b", "a"]}]}, "links: two between 'b' and 'a'"),
        ({"nodes": []}, "nodes"),
        ({"nodes": [{**NODE, "count": 65536}]}, "at most 10000 devices, got 65536"),
        ({"nodes": [{**NODE, "count": 0}]}, "nodes[0].count"),
        ({"nodes": [{**NODE, "price_per_hour": float("nan")}]}, "price_per_hour"),
        ({"model": {}}, "give --model"),
        ({"model": {"name": ["x"]}}, "expected a name alone"),
        ({"model": {"name": "llama-8b", "hidden": 1}}, "expected a name alone"),
        ({"model": {"num_layers": 4}}, "missing required field `hidden`"),
        ({"model": {"layers": 4}}, "'layers' is not one of num_layers"),
        ({"serving": {"max_running": 0}}, "serving: Expected `int` >= 1 - at `$.max_running`"),
        ({"serving": {"max_model_len": "long"}}, "Expected `int"),
        ({"serving": {"memory_fraction": 1.5}}, "memory_fraction"),
        ({"serving": {"speed": 1}}, "serving.speed: not one of"),
        ({"serving": {"max_model_len": 512}}, "set it to 1366 or more"),
    ],
)
def test_a_cluster_file_that_makes_no_sense_is_one_sentence(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    path = tmp_path / "cluster.toml"
    path.write_text(document({**CLUSTER, **change}))
    code, said = run(path)
    assert (code, message in said) == (1, True), said


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "Object missing required field `nodes`"),
        (b"\x89PNG\r\n\x1a\n", "expected text in UTF-8, got byte 0x89 at 0"),
        (b"nodes = " + b"[" * 5000, "nested too deep"),
        (b"nodes = [", "not TOML"),
    ],
)
def test_a_file_that_is_no_cluster_is_one_sentence(
    tmp_path: Path, content: bytes, message: str
) -> None:
    path = tmp_path / "cluster.toml"
    path.write_bytes(content)
    code, said = run(path)
    assert code == 1
    assert str(path) in said
    assert message in said


def test_a_path_that_cannot_be_read_is_one_sentence(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing.toml", "a\0b", "x" * 5000):
        code, said = run(path)
        assert code == 1
        assert "cannot be read" in said


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ([], "expected an object, got list"),
        ({}, "expected num_hidden_layers of 1 or more, got None"),
        ({**CONFIG, "hidden_size": True}, "expected hidden_size"),
        ({**CONFIG, "vocab_size": -5}, "expected vocab_size of 1 or more, got -5"),
        ({**CONFIG, "num_hidden_layers": 10**30}, "expected num_layers from 1 to 10000"),
        ({**CONFIG, "num_key_value_heads": "8"}, "expected num_key_value_heads"),
        ({**CONFIG, "hidden_size": 4}, "expected head_dim from 1"),
        ({**CONFIG, "sliding_window": float("nan")}, "expected sliding_window"),
        ({**CONFIG, "text_config": 3}, "expected text_config to be an object"),
        ({**CONFIG, "quantization_config": {"bits": "four"}}, "expected bits"),
        ({**CONFIG, "quantization_config": {"bits": -4}}, "expected bits"),
    ],
)
def test_a_config_that_lacks_what_planning_needs_is_one_sentence(
    cluster: Path, tmp_path: Path, config: object, message: str
) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config))
    code, said = run(cluster, "--model", path)
    assert (code, message in said) == (1, True), said


@pytest.mark.parametrize("content", ["[" * 100_000, "{", "9" * 5000, ""])
def test_a_config_that_is_no_json_is_one_sentence(
    cluster: Path, tmp_path: Path, content: str
) -> None:
    path = tmp_path / "config.json"
    path.write_text(content)
    code, said = run(cluster, "--model", path)
    assert code == 1
    assert "JSON" in said or "expected an object" in said


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected the columns"),
        ("a,b\n1,2\n", "expected the columns"),
        (HEADER, "expected one or more requests below its header"),
        (
            HEADER + ROW + "2023-11-16 18:15:46,x,4\n",
            "line 3: expected a number of tokens, got 'x'",
        ),
        (HEADER + "2023-11-16 18:15:46,-5,4\n", "line 2: expected a number of tokens, got '-5'"),
        (HEADER + "2023-11-16 18:15:46,5\n", "line 2: expected a number of tokens, got None"),
        (HEADER + "yesterday,5,5\n", "line 2: Invalid isoformat"),
        (HEADER + f"2023-11-16 18:15:46,{'9' * 40},5\n", "line 2: expected at most 100000000"),
        (HEADER + "2023-11-16 18:15:46,90000,5\n", "set it to 90005 or more"),
        (HEADER + '"' + "x" * 200_000 + '",1,1\n', "not CSV"),
    ],
)
def test_a_trace_with_bad_rows_says_which(
    cluster: Path, tmp_path: Path, text: str, message: str
) -> None:
    path = tmp_path / "trace.csv"
    path.write_text(text)
    code, said = run(cluster, "--workload", path)
    assert (code, message in said) == (1, True), said


def test_a_trace_may_mix_zones_and_be_out_of_order(cluster: Path, tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    path.write_text(HEADER + ROW + "2023-11-16 18:15:40+00:00,10,0\n")
    assert run(cluster, "--workload", path, "--time", "1")[0] == 0


def test_a_rate_that_nothing_serves_is_told(
    cluster: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(cluster), "--rate", "1e9", "--time", "1"], clock=CountingClock(0.05)) == 0
    assert "short of the 1e+09 requests/s of conversation: 0.0%" in capsys.readouterr().out


def test_a_file_that_cannot_be_written_is_told_before_the_search(
    cluster: Path, tmp_path: Path
) -> None:
    closed = tmp_path / "closed"
    closed.mkdir()
    for option, path in (
        ("--json", tmp_path / "missing" / "plan.json"),
        ("--json", closed),
        ("--plot", tmp_path / "missing" / "plan.svg"),
    ):
        code, said = run(cluster, option, path)
        assert code == 1
        assert said.startswith(f"error: {option[2:]}: expected a file in a folder that is")


def test_a_plan_of_another_model_is_not_explained(cluster: Path, tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    assert run(cluster, "--json", path, "--time", "1")[0] == 0
    code, said = run("explain", path, path, cluster, "--model", "llama-1b")
    assert code == 1
    assert "expected a plan of model 'llama-1b', got one of 'llama-8b'" in said
    plan = json.loads(path.read_text())
    plan["pipelines"][0]["stages"][-1]["end"] = 16
    path.write_text(json.dumps(plan))
    code, said = run("explain", path, path, cluster)
    assert code == 1
    assert "expected layers 0:32, got 0:16" in said


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"forecast": {"pipelines": [{"phase": "both"}] * 9}}, "a list of at most 1"),
        ({"forecast": {"pipelines": [{"phase": "none"}]}}, "expected a phase of both, prefill"),
        ({"forecast": {"pipelines": 5}}, "expected a list"),
        ({"epoch": "first"}, "plan.epoch: expected"),
        ({"weights": 1}, "expected the keys"),
    ],
)
def test_a_plan_file_with_absurd_content_is_one_sentence(
    cluster: Path, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    stage = {"stage": 0, "node": "a", "worker": "w", "device": "cuda:0", "start": 0, "end": 32}
    pipeline = {"id": "0", "stages": [stage], "num_blocks": 1, "block_tokens": 16}
    plan = {"epoch": 0, "model": "llama-8b", "pipelines": [pipeline], **change}
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(plan))
    code, said = run("explain", path, path, cluster)
    assert (code, message in said) == (1, True), said


def test_a_search_that_is_interrupted_ends_without_a_traceback(cluster: Path) -> None:
    def interrupted() -> float:
        raise KeyboardInterrupt

    err = io.StringIO()
    with redirect_stderr(err):
        assert main([str(cluster)], clock=interrupted) == STOPPED
    assert err.getvalue().startswith("error: stopped")


ANY_NUMBER = st.one_of(
    st.sampled_from([0, -1, 1, 2, 10**30, 0.5, 1e-300, 1e300, float("nan"), float("inf")]),
    st.integers(-5, 10**6),
    st.floats(),
)
ANY: st.SearchStrategy[Any] = st.one_of(
    ANY_NUMBER, st.text(max_size=5), st.booleans(), st.just([]), st.just({})
)
FIELDS = {
    "nodes": ["id", "devices", "site", "count", "price_per_hour", "spot", "notice_s"],
    "links": ["between", "bytes_per_s", "latency_s", "speed"],
    "devices": ["memory_bytes", "flops_per_s", "bytes_per_s", "price_per_hour"],
    "model": ["num_layers", "hidden", "num_heads", "num_kv_heads", "vocab", "dtype_bytes"],
    "serving": ["max_running", "max_step_tokens", "max_model_len", "memory_fraction"],
}
SHAPE = {
    "num_layers": 4,
    "hidden": 1024,
    "num_heads": 8,
    "num_kv_heads": 8,
    "head_dim": 128,
    "intermediate": 4096,
    "vocab": 32000,
}
DEVICE = {"memory_bytes": 10**10, "flops_per_s": 1e13, "bytes_per_s": 1e11}
BASE: dict[str, Callable[[str, Any], Any]] = {
    "nodes": lambda key, value: [{**NODE, "devices": ["d"], key: value}],
    "links": lambda key, value: [{**LINK, "between": ["a", "a"], key: value}],
    "devices": lambda key, value: {"d": {**DEVICE, key: value}},
    "model": lambda key, value: {**SHAPE, key: value},
    "serving": lambda key, value: {key: value},
}


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    table=st.sampled_from(sorted(FIELDS)),
    key=st.integers(0, 6),
    value=ANY,
    options=st.lists(
        st.tuples(
            st.sampled_from(["--rate", "--budget", "--seed", "--max-tp", "--workload", "--slo"]),
            st.one_of(ANY_NUMBER.map(str), st.sampled_from(["7:9", "0:5", "ttft=1", "code", ":"])),
        ),
        max_size=2,
    ),
)
def test_no_input_ends_in_a_traceback(
    tmp_path: Path, table: str, key: int, value: object, options: list[tuple[str, str]]
) -> None:
    data: dict[str, Any] = {
        "nodes": [{**NODE, "devices": ["d"]}],
        "devices": {"d": DEVICE},
        "model": SHAPE,
    }
    data[table] = BASE[table](FIELDS[table][key % len(FIELDS[table])], value)
    path = tmp_path / "cluster.toml"
    path.write_text(document(data), encoding="utf-8", errors="replace")
    typed = [f"{name}={text}" for name, text in options]
    check(*run(path, "--time", "0.2", *typed))
