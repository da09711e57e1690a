import json
import logging
import re
from pathlib import Path

import pytest

from runtime import keys as command
from runtime.errors import ConfigError
from runtime.gateway.keys import (
    RELOAD_S,
    ApiKey,
    KeyFile,
    KeyRing,
    Quota,
    keys_from_environment,
    read_keys,
    sha256_of,
)
from runtime.gateway.targets import Targets

SECRET = "rk-of-a-test-and-long-enough"


def key(secret: str = SECRET, key_id: str = "k1") -> ApiKey:
    return ApiKey(id=key_id, sha256=sha256_of(secret))


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def make(path: Path, *arguments: str, capsys: pytest.CaptureFixture[str]) -> str:
    """A new key's text."""
    assert command.main(["create", "--file", str(path), *arguments]) == 0
    return capsys.readouterr().out.strip()


def test_a_key_is_found_by_its_text_and_by_nothing_else() -> None:
    ring = KeyRing([key(), key("another-long-enough", "k2")])
    found = ring.find("another-long-enough")
    assert found is not None
    assert found.id == "k2"
    for wrong in ("", SECRET[:-1], SECRET.upper(), sha256_of(SECRET), "k1", "\udcff"):
        assert ring.find(wrong) is None


def test_a_made_key_works_and_the_file_does_not_hold_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "keys.json"
    options = ["--id", "team", "--scope", "admin", "--rpm", "60", "--weight", "2", "--priority=-5"]
    secret = make(path, *options, capsys=capsys)
    assert secret.startswith("rk-")
    assert secret not in path.read_text()
    assert path.stat().st_mode & 0o077 == 0
    found = KeyRing(read_keys(path).keys).find(secret)
    assert found is not None
    assert (found.id, found.scopes, found.weight, found.priority) == ("team", ("admin",), 2.0, -5)
    assert found.quota == Quota(requests_per_minute=60)


def test_the_list_shows_every_key_and_no_hash(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "keys.json"
    secrets = [make(path, "--id", name, capsys=capsys) for name in ("a", "b")]
    assert command.main(["list", "--file", str(path)]) == 0
    shown = capsys.readouterr().out
    assert [line.split()[0] for line in shown.splitlines()] == ["a", "b"]
    for secret in secrets:
        assert secret not in shown
        assert sha256_of(secret) not in shown


def test_a_revoked_key_is_gone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "keys.json"
    kept, gone = (make(path, "--id", name, capsys=capsys) for name in ("kept", "gone"))
    assert command.main(["revoke", "gone", "--file", str(path)]) == 0
    ring = KeyRing(read_keys(path).keys)
    assert ring.find(gone) is None
    assert ring.find(kept) is not None


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["revoke", "nobody"], "no key 'nobody'"),
        (["create", "--id", "k1"], "in .* already"),
        (["create", "--id", "white space"], "api-keys create"),
        (["create", "--weight", "0"], "api-keys create"),
        (["create", "--priority", "101"], "api-keys create"),
        (["create", "--slo-ttft", "0"], "api-keys create"),
        (["create", "--slo-refuse"], "expected --slo-ttft or --slo-tpot beside it"),
    ],
)
def test_what_cannot_be_done_is_said_and_changes_nothing(
    arguments: list[str], complaint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "keys.json"
    make(path, "--id", "k1", capsys=capsys)
    before = path.read_bytes()
    assert command.main([*arguments, "--file", str(path)]) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ")
    assert re.search(complaint, captured.err)
    assert captured.out == ""
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["keys.json"]


def test_a_file_that_is_missing_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main(["list", "--file", str(tmp_path / "absent")]) == 1
    assert "remuda api-keys create" in capsys.readouterr().err


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '{"keys": [{"id": "a"}]}',
        '{"keys": [{"id": "a", "sha256": "short"}]}',
        json.dumps({"keys": [{"id": "a", "sha256": "0" * 64, "is_root": True}]}),
        json.dumps({"keys": [{"id": "a", "sha256": "0" * 64, "scopes": ["all"]}]}),
        json.dumps({"keys": [{"id": "a", "sha256": "0" * 64}, {"id": "a", "sha256": "1" * 64}]}),
    ],
)
def test_a_file_that_is_none_of_keys_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"http\.keys_file: .*keys\.json"):
        read_keys(path)


def test_a_running_service_sees_new_and_revoked_keys(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, clock = tmp_path / "keys.json", Clock()
    first = make(path, "--id", "first", capsys=capsys)
    keys = KeyFile(path, [], clock)
    second = make(path, "--id", "second", capsys=capsys)
    assert command.main(["revoke", "first", "--file", str(path)]) == 0
    assert keys.ring.find(first) is not None
    clock.now += RELOAD_S
    assert keys.ring.find(first) is None
    assert keys.ring.find(second) is not None


def test_a_file_that_breaks_changes_nothing_and_is_told_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    path, clock = tmp_path / "keys.json", Clock()
    secret = make(path, capsys=capsys)
    keys = KeyFile(path, [], clock)
    path.write_text("{")
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            clock.now += RELOAD_S
            assert keys.ring.find(secret) is not None
    assert len(caplog.records) == 1
    assert secret not in caplog.text


def test_keys_of_the_environment_have_their_scopes() -> None:
    environment = {
        "REMUDA_API_KEYS": f"{SECRET}, {SECRET}-2,",
        "REMUDA_ADMIN_KEYS": f"{SECRET}-3",
    }
    ring = KeyRing(keys_from_environment(environment))
    found = [ring.find(f"{SECRET}{end}") for end in ("", "-2", "-3")]
    assert [k.id for k in found if k] == ["env-serve-0", "env-serve-1", "env-admin-0"]
    assert [k.scopes for k in found if k] == [("serve",), ("serve",), ("admin",)]


def test_a_key_of_the_environment_that_can_be_guessed_is_refused_and_not_shown() -> None:
    with pytest.raises(ConfigError, match=r"REMUDA_API_KEYS: expected keys of 16") as refused:
        keys_from_environment({"REMUDA_API_KEYS": "hunter2"})
    assert "hunter2" not in str(refused.value)


def test_a_key_may_have_latency_targets(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "keys.json"
    make(path, "--slo-ttft", "0.5", "--slo-tpot", "0.05", "--slo-refuse", capsys=capsys)
    assert read_keys(path).keys[0].slo == Targets(ttft=0.5, tpot=0.05, refuse=True)
    assert command.main(["list", "--file", str(path)]) == 0
    assert "ttft=0.5s tpot=0.05s late=refuse" in capsys.readouterr().out
