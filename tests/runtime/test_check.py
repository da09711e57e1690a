import json
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq

from models.demo import demo_path
from runtime import check, launch
from runtime.cluster_keys import create_keys

FREE_PORT = ["--port", "0"]


@pytest.fixture(autouse=True)
def starts_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(plan: object) -> None:
        raise AssertionError(f"--check started {plan}")

    monkeypatch.setattr(launch, "launch", start)


@pytest.fixture
def occupied() -> Iterator[int]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield int(listener.getsockname()[1])


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A copy of the demo model that a test may damage."""
    return shutil.copytree(demo_path(), tmp_path / "model")


def edit_config(model: Path, **changes: Any) -> None:
    path = model / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The last line of a check that fails."""
    assert launch.main(["--check", *FREE_PORT, *arguments]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    last = captured.err.splitlines()[-1]
    assert last.startswith("error: ")
    return last.removeprefix("error: ")


def test_a_good_configuration_is_told_line_by_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert launch.main(["--check", *FREE_PORT, "--layers", "0:5,5:12"]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    lines = captured.out.splitlines()
    assert [line.split()[:2] for line in lines] == [
        ["ok", "http"],
        ["ok", "cluster"],
        ["ok", "cluster"],
        ["ok", "model"],
        ["ok", "plan:"],
        ["ok", "memory:"],
    ]
    assert "12 layers" in lines[3]
    assert "2 stages" in lines[4]


def test_the_worked_example_passes(capsys: pytest.CaptureFixture[str]) -> None:
    example = str(Path(__file__).parents[2] / "examples" / "cluster.toml")
    assert launch.main([example, "--check", *FREE_PORT]) == 0
    assert "known when the nodes have joined" in capsys.readouterr().out


@pytest.mark.parametrize("key", ["http.port", "cluster.port"])
def test_an_occupied_port_is_named_with_the_key_that_chooses_another(
    occupied: int, key: str, capsys: pytest.CaptureFixture[str]
) -> None:
    text = refusal(capsys, "--set", f"{key}={occupied}")
    assert f"127.0.0.1:{occupied}" in text
    assert "in use" in text
    assert f"--set {key}=PORT" in text


def test_an_address_that_is_not_this_machines_is_refused(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert "cannot listen at 192.0.2.1:0" in refusal(capsys, "--host", "192.0.2.1")
    assert "cannot listen at a..b:0" in refusal(capsys, "--host", "a..b")


def test_cluster_links_off_loopback_are_refused_unless_asked_for_by_name(
    capsys: pytest.CaptureFixture[str],
) -> None:
    everywhere = ["--set", "cluster.host=0.0.0.0"]
    assert "--insecure" in refusal(capsys, *everywhere, "--set", "security.curve=off")
    assert launch.main(["--check", *FREE_PORT, *everywhere, "--insecure"]) == 0
    assert "ok cluster links: plaintext" in capsys.readouterr().out
    assert launch.main(["--check", *FREE_PORT, *everywhere]) == 0
    assert "ok cluster links: encrypted" in capsys.readouterr().out


def test_keys_are_checked_and_refused_where_they_would_not_be_used(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keys = ["--set", f"security.keys={tmp_path}"]
    assert "cluster links are not encrypted" in refusal(capsys, *keys)
    encrypted = [*keys, "--set", "security.curve=on"]
    assert "`remuda keys create" in refusal(capsys, *encrypted)
    create_keys(tmp_path)
    assert launch.main(["--check", *FREE_PORT, *encrypted]) == 0


def test_a_libzmq_without_encryption_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(zmq, "has", lambda capability: False)
    assert "built without CURVE" in refusal(capsys, "--set", "security.curve=on")


def test_a_model_folder_that_is_not_there_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert "/no/such/model" in refusal(capsys, "--model", "/no/such/model")


def test_a_path_with_a_quote_in_it_is_taken_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert """/no/such/o'neill "x" """ in refusal(capsys, "--model", """/no/such/o'neill "x" """)
    assert "true/config.json" in refusal(capsys, "--model", "true")


def test_an_architecture_that_we_do_not_run_is_named_with_those_we_do(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    edit_config(model, architectures=["MambaForCausalLM"])
    text = refusal(capsys, "--model", str(model))
    assert "MambaForCausalLM" in text
    assert "LlamaForCausalLM" in text


def test_weights_that_were_cut_short_are_named(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert str(weights) in refusal(capsys, "--model", str(model))


def test_a_tokenizer_that_is_missing_is_named(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (model / "tokenizer.json").unlink()
    assert "tokenizer" in refusal(capsys, "--model", str(model))


@pytest.mark.parametrize(
    ("arguments", "explained"),
    [
        (["--layers", "0:5,6:12"], ["a gap at 6:12", "expected a start of 5", "got 6"]),
        (["--layers", "0:5,5:11"], ["expected layers 0:12", "got 0:11"]),
        (["--layers", "0:5,5"], ["expected start:end", "got '5'"]),
        (["--layers", "0:5,5:12", "--stages", "3"], ["2 stages", "3 are asked for"]),
        (["--stages", "13"], ["13 stages for 12 layers"]),
        (["--set", "model.max_len=100000"], ["model.max_len is 100000", "end at"]),
        (["--set", "http.prot=1"], ["unknown key http.prot", "known here: body_timeout_s"]),
        (["--set", "http.port"], ["expected KEY=VALUE", "'http.port'"]),
        (["--set", "http.port=high"], ["Expected `int`", "http.port"]),
        (["no-such-file.toml"], ["cannot read no-such-file.toml", "No such file"]),
        (["--node-id", "x" * 200], ["--node-id", "1 to 128"]),
    ],
)
def test_what_cannot_work_is_explained(
    arguments: list[str], explained: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    text = refusal(capsys, *arguments)
    for part in explained:
        assert part in text


def test_a_bad_key_of_the_file_is_refused_with_the_known_ones(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "cluster.toml"
    file.write_text("[serving]\nmax_runing = 3\n")
    text = refusal(capsys, str(file))
    assert "unknown key serving.max_runing" in text
    assert "max_running" in text


def test_a_node_id_that_the_file_does_not_name_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "cluster.toml"
    file.write_text('[[nodes]]\nid = "a"\n[[nodes]]\nid = "b"\n')
    assert "(a, b), got 'z'" in refusal(capsys, str(file), "--node-id", "z")


def test_a_model_too_large_for_the_memory_is_refused_with_the_numbers(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(check, "has_gpu_driver", lambda: False)
    monkeypatch.setattr(check, "available_bytes", lambda: 2_000_000)
    text = refusal(capsys)
    assert "has 0.002 GB free" in text
    assert "kv.memory_fraction gives 0.5" in text


def test_the_fraction_of_memory_that_we_may_take_is_what_counts(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(check, "has_gpu_driver", lambda: False)
    assert "gives 1e-07" in refusal(capsys, "--set", "kv.memory_fraction=1e-7")


def test_where_there_are_gpus_the_hosts_memory_refuses_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(check, "has_gpu_driver", lambda: True)
    monkeypatch.setattr(check, "available_bytes", lambda: 0)
    assert launch.main(["--check", *FREE_PORT]) == 0
    assert "known when the GPUs have been measured" in capsys.readouterr().out
