import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from socketserver import BaseRequestHandler, TCPServer

import pytest

from runtime import ctl
from runtime.control.service import Service
from runtime.network import free_port

STAGE = {
    "stage": 0,
    "node": "a-node-with-a-name-of-some-length[1]",
    "device": "cpu",
    "layers": [0, 5],
    "pid": 4711,
    "kv_blocks": 8192,
    "weight_bytes": 4132992,
    "resident_bytes": 372731904,
    "state": "ready",
}
STATUS = {
    "model": "demo[x]",
    "epoch": 7,
    "missing": ["waiting for node b"],
    "requests": {"running": 3, "waiting": 1},
    "recoveries": 2,
    "pipelines": [
        {"id": "0", "stages": [STAGE, {**STAGE, "stage": 1, "layers": [5, 12], "node": "b"}]}
    ],
}


@contextmanager
def serving(server: TCPServer) -> Iterator[str]:
    with server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


@contextmanager
def answering(body: bytes, code: int = 200, needed: str | None = None) -> Iterator[str]:
    """A server that gives one answer, whatever it is asked, perhaps only to those with a key."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            has_key = needed is None or self.headers["Authorization"] == f"Bearer {needed}"
            self.send_response(code if self.path == "/admin/status" and has_key else 404)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: object) -> None:
            pass

    with serving(HTTPServer(("127.0.0.1", 0), Handler)) as url:
        yield url


def test_a_status_is_a_line_what_is_missing_and_a_row_for_each_stage(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with answering(json.dumps(STATUS).encode()) as url:
        assert ctl.main(["--url", f"{url}/", "status"]) == 0
    first, missing, head, *rows = capsys.readouterr().out.splitlines()
    assert first == "model demo[x]  epoch 7  running 3  waiting 1  recoveries 2"
    assert missing.strip() == "waiting for node b"
    columns = ["pipeline", "phase", "stage", "node", "device", "layers", "state"]
    assert head.split()[:7] == columns
    assert [row.split() for row in rows] == [
        ["0", "both", "0", STAGE["node"], "cpu", "0:5", "ready", "4711", "8192", "4.1", "372.7"],
        ["0", "both", "1", "b", "cpu", "5:12", "ready", "4711", "8192", "4.1", "372.7"],
    ]


def test_a_status_shows_what_each_pipeline_handed_off(capsys: pytest.CaptureFixture[str]) -> None:
    counts = {"done": 4, "stayed": 1, "failed": 2, "bytes": 2_500_000, "seconds": 0.2}
    counts["present_bytes"] = 1_200_000
    pipelines = [
        {"id": "0", "phase": "prefill", "hand_offs": counts, "stages": [STAGE]},
        {
            "id": "1",
            "phase": "decode",
            "hand_offs": {**counts, "done": 0, "stayed": 0, "failed": 0},
            "stages": [STAGE],
        },
        {"id": "2", "phase": "both", "hand_offs": None, "stages": [STAGE]},
    ]
    way = {"prefill": "0", "decode": "1", "weight": 2.0, "bytes_per_s": None, "encoding": "int8"}
    status = STATUS | {"pipelines": pipelines, "routes": [way]}
    with answering(json.dumps(status).encode()) as url:
        assert ctl.main(["status", "--url", url]) == 0
    *lines, head, route = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert head == ["from", "to", "KV", "as", "weight", "MB/s"]
    assert route == ["0", "1", "int8", "2", "-"]
    assert lines[-1] == ["0", "prefill", "4", "1", "2", "2.5", "1.2", "50.0"]
    assert lines[-2] == [
        "pipeline",
        "phase",
        "handed",
        "off",
        "stayed",
        "failed",
        "MB",
        "MB",
        "there",
        "mean",
        "ms",
    ]


def test_a_status_tells_how_many_tokens_of_prompts_were_there(
    capsys: pytest.CaptureFixture[str],
) -> None:
    status = STATUS | {"prefix": {"queries": 640, "hits": 512}}
    with answering(json.dumps(status).encode()) as url:
        assert ctl.main(["status", "--url", url]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].strip() == "512 of 640 tokens were there already"


def test_a_status_shows_the_processes_and_a_swap_that_is_under_way(
    capsys: pytest.CaptureFixture[str],
) -> None:
    more = {
        "processes": [{"role": "node", "name": "b[x]", "pid": 5}],
        "swap": {"pipeline": "0", "phase": "copy", "epoch": 8},
    }
    with answering(json.dumps(STATUS | more).encode()) as url:
        assert ctl.main(["status", "--url", url]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].strip() == "swap of pipeline 0 to epoch 8: copy"
    assert [line.split() for line in lines[-2:]] == [
        ["process", "name", "pid"],
        ["node", "b[x]", "5"],
    ]


def test_a_status_as_json_is_what_the_service_said(capsys: pytest.CaptureFixture[str]) -> None:
    with answering(json.dumps(STATUS).encode()) as url:
        assert ctl.main(["--url", url, "status", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == STATUS


@pytest.mark.parametrize(
    ("body", "code", "reason"),
    [
        (b"<html>", 200, "did not answer with JSON"),
        (b"\xff\xfe\x00", 200, "did not answer with JSON"),
        (b"[1]", 200, "did not answer with a service's status"),
        (b'{"model": "demo"}', 200, "did not answer with a service's status"),
        (b"{}", 404, "404"),
        (b"{}", 500, "500"),
    ],
)
def test_an_answer_that_is_no_status_is_one_line_on_standard_error(
    body: bytes, code: int, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with answering(body, code) as url:
        assert ctl.main(["--url", url, "status"]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert line.startswith(f"error: no Remuda service answers at {url} (")
    assert reason in line
    assert "--url" in line


def test_a_server_that_does_not_speak_http_is_one_line_too(
    capsys: pytest.CaptureFixture[str],
) -> None:
    class Rude(BaseRequestHandler):
        def handle(self) -> None:
            self.request.recv(4096)
            self.request.sendall(b"SSH-2.0-OpenSSH_9\r\n")

    with serving(TCPServer(("127.0.0.1", 0), Rude)) as url:
        assert ctl.main(["--url", url, "status"]) == 1
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize("url", [None, "ftp://x", "nonsense", "http://a b", "http://[x"])
def test_an_address_where_nobody_answers_is_named(
    url: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    url = url or f"http://127.0.0.1:{free_port('127.0.0.1')}"
    assert ctl.main(["--url", url, "status"]) == 1
    assert f"no Remuda service answers at {url} (" in capsys.readouterr().err


def test_a_command_that_is_mistyped_ends_with_two() -> None:
    with pytest.raises(SystemExit) as ended:
        ctl.main(["stat"])
    assert ended.value.code == 2


def test_an_interrupted_command_says_that_its_order_may_go_on(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Service, "get", interrupted)
    assert ctl.main(["status"]) == 130
    assert "may go on" in capsys.readouterr().err


def test_the_key_of_the_environment_is_sent(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with answering(json.dumps(STATUS).encode(), needed="rk-boss") as url:
        assert ctl.main(["--url", url, "status"]) == 1
        monkeypatch.setenv(ctl.KEY_ENV, "rk-boss")
        assert ctl.main(["--url", url, "status"]) == 0
    assert "rk-boss" not in "".join(capsys.readouterr())


def test_a_file_of_roots_that_cannot_be_used_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = tmp_path / "roots.pem"
    bad.write_text("nothing")
    for path in (bad, tmp_path / "absent.pem"):
        assert ctl.main(["--ca", str(path), "status"]) == 1
        assert f"error: --ca: {path} cannot be used" in capsys.readouterr().err
