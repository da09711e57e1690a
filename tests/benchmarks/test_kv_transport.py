from pathlib import Path

import pytest

from benchmarks import kv_transport
from benchmarks.kv_transport_models import Candidate
from tests.models.families import make_checkpoint


def test_it_tells_of_every_encoding_what_it_costs_and_what_follows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def prompts(count: int, length: int) -> list[list[int]]:
        return [[(7 * i + j) % 256 for j in range(length)] for i in range(count)]

    candidate = Candidate(name="tiny", path=make_checkpoint("llama", tmp_path), prompts=prompts)
    monkeypatch.setattr(kv_transport, "candidates", lambda: [candidate])
    kv_transport.main(["--prompts", "2", "--prompt-tokens", "20", "--tokens", "3"])
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    found = [row for row in rows if row[:1] == ["tiny"]]
    assert [row[1] for row in found] == ["int8", "int4"] * 2
    assert [len(row) for row in found] == [7, 7, 10, 10]
    bytes_of = {row[1]: float(row[2]) for row in found[:2]}
    assert 0 < bytes_of["int4"] < bytes_of["int8"] < 1
