"""The keys that a cluster keeps, the command that makes them, and the token that carries them."""

import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime import keys_cluster
from runtime.cluster_keys import FILE, ClusterKeys, create_keys, load_keys, rotate_keys
from runtime.errors import ConfigError
from runtime.join_token import JoinToken, new_secret
from transport.security import KeyPair, key_text


def test_keys_are_read_as_they_were_made_and_are_ours_alone(tmp_path: Path) -> None:
    folder = tmp_path / "made" / "keys"
    made = create_keys(folder)
    assert load_keys(folder) == made
    assert stat.S_IMODE((folder / FILE).stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert os.listdir(folder) == [FILE]


def test_keys_are_not_made_over_others(tmp_path: Path) -> None:
    made = create_keys(tmp_path)
    with pytest.raises(ConfigError, match=r"is there already; `remuda keys rotate"):
        create_keys(tmp_path)
    assert load_keys(tmp_path) == made


def test_rotation_replaces_key_and_secret(tmp_path: Path) -> None:
    old, new = create_keys(tmp_path), rotate_keys(tmp_path)
    assert load_keys(tmp_path) == new
    assert new.secret != old.secret
    assert new.coordinator.public != old.coordinator.public
    assert os.listdir(tmp_path) == [FILE]


def test_a_rotation_that_cannot_be_written_leaves_the_old_keys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = create_keys(tmp_path)

    def fail(number: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(ConfigError, match=r"cannot write .*No space left"):
        rotate_keys(tmp_path)
    assert load_keys(tmp_path) == made
    assert os.listdir(tmp_path) == [FILE]


def test_there_is_nothing_to_rotate_or_read_where_no_keys_are(tmp_path: Path) -> None:
    for action in (rotate_keys, load_keys):
        with pytest.raises(ConfigError, match=r"there is no .*; `remuda keys create"):
            action(tmp_path)


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o620, 0o604])
def test_keys_that_others_may_have_read_are_refused(tmp_path: Path, mode: int) -> None:
    create_keys(tmp_path)
    (tmp_path / FILE).chmod(mode)
    with pytest.raises(ConfigError, match=rf"has mode {mode:04o}, expected 0600"):
        load_keys(tmp_path)


def test_keys_of_another_user_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    create_keys(tmp_path)
    monkeypatch.setattr(os, "geteuid", lambda: 4242)
    with pytest.raises(ConfigError, match="expected 4242, who runs this"):
        load_keys(tmp_path)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "expected .*join_secret"),
        ("not toml", "is not TOML"),
        ("\x80", "is not TOML"),
        ('join_secret = "s"', "expected .*coordinator_secret_key"),
        ('join_secret = "s"\ncoordinator_secret_key = 7', "as text"),
        ('join_secret = "s"\ncoordinator_secret_key = "SECRETKEY"', "is no key"),
        (f'join_secret = ""\ncoordinator_secret_key = "{"A" * 43}"', "is empty"),
        (f'join_secret = "s"\ncoordinator_secret_key = "{"A" * 43}"\nmore = 1', "expected"),
    ],
)
def test_a_garbled_file_is_refused_without_showing_what_is_in_it(
    tmp_path: Path, text: str, complaint: str
) -> None:
    (tmp_path / FILE).write_bytes(text.encode("latin-1"))
    (tmp_path / FILE).chmod(0o600)
    with pytest.raises(ConfigError, match=complaint) as refused:
        load_keys(tmp_path)
    assert "SECRETKEY" not in str(refused.value)
    assert FILE in str(refused.value)


def test_keys_do_not_show_their_secrets() -> None:
    keys = ClusterKeys.fresh()
    for secret in (keys.secret, repr(keys.coordinator.secret)):
        assert secret not in repr(keys)
        assert secret not in repr(keys.token)


# --- the token


@given(secret=st.text(min_size=1, max_size=60), key=st.none() | st.binary(min_size=32, max_size=32))
def test_a_token_is_read_as_it_was_written(secret: str, key: bytes | None) -> None:
    token = JoinToken(secret, key)
    assert JoinToken.parse(token.text).text == token.text
    if key is not None:
        assert JoinToken.parse(token.text) == token


@pytest.mark.parametrize("text", ["t", "chosen.by.hand", f"t.{'x' * 43}", f"t.{'é' * 43}", "."])
def test_a_token_chosen_by_hand_carries_no_key(text: str) -> None:
    assert JoinToken.parse(text) == JoinToken(text)


def test_a_new_secret_is_no_flag_on_a_command_line() -> None:
    secrets = {new_secret() for _ in range(200)}
    assert len(secrets) == 200
    assert all(secret.isalnum() and len(secret) >= 32 for secret in secrets)


# --- the command


def test_the_command_makes_shows_and_rotates_without_showing_secrets(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = str(tmp_path / "keys")
    shown = []
    for action in ("create", "show", "rotate"):
        assert keys_cluster.main([action, folder]) == 0
        output = capsys.readouterr()
        keys = load_keys(Path(folder))
        public = key_text(keys.coordinator.public)
        assert output.out == f"{folder}/{FILE}\ncoordinator public key {public}\n"
        assert ("until it is launched again" in output.err) is (action == "rotate")
        shown.append(public)
    assert shown[0] == shown[1] != shown[2]


def test_the_command_prints_the_join_token_when_asked_to(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert keys_cluster.main(["create", "--token", str(tmp_path)]) == 0
    keys = load_keys(tmp_path)
    assert JoinToken.parse(capsys.readouterr().out.strip()) == keys.token
    assert KeyPair.of_secret(keys.coordinator.secret).public == keys.token.key


def test_the_command_says_in_one_line_what_cannot_be_done(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert keys_cluster.main(["show", str(tmp_path)]) == 1
    assert capsys.readouterr().err.startswith("error: keys: there is no ")
