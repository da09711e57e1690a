"""When links are encrypted, and with which token and keys a service is launched."""

from pathlib import Path

import pytest

from runtime.cluster_keys import create_keys, rotate_keys
from runtime.config import Config
from runtime.config_file import check
from runtime.errors import ConfigError
from runtime.join_token import JoinToken
from runtime.service_security import choose_security, is_encrypted, read_secret_key
from transport.security import KeyPair

AWAY = "192.0.2.7"
KEYED = JoinToken("t", KeyPair.fresh().public).text


def config(host: str = "127.0.0.1", *, insecure: bool = False, curve: str = "auto") -> Config:
    cluster = {"host": host, "insecure": insecure}
    return check({"cluster": cluster, "security": {"curve": curve}})


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (config(), False),
        (config(curve="on"), True),
        (config(AWAY), True),
        (config(AWAY, insecure=True), False),
        (config(AWAY, curve="off"), False),
        (config("::1"), False),
        (config("box"), True),
    ],
)
def test_links_are_encrypted_off_loopback_or_when_asked_for(found: Config, expected: bool) -> None:
    assert is_encrypted(found) is expected
    chosen = choose_security(found, None)
    assert chosen.is_encrypted is expected
    assert (chosen.token.key is not None) is expected


def test_plaintext_and_encryption_cannot_both_be_asked_for() -> None:
    with pytest.raises(ConfigError, match=r"cluster\.insecure .*give one of them"):
        config(AWAY, insecure=True, curve="on")


def test_a_token_of_ones_own_is_kept_and_carries_the_key_where_links_are_encrypted() -> None:
    assert choose_security(config(), "mine").token == JoinToken("mine")
    chosen = choose_security(config(AWAY), "mine")
    keys = read_secret_key(chosen.secret_key)
    assert keys is not None
    assert chosen.token == JoinToken("mine", keys.public)
    assert chosen.secret_key not in repr(chosen)


def test_each_launch_without_kept_keys_has_its_own() -> None:
    first, second = (choose_security(config(AWAY), None) for _ in range(2))
    assert first.token.secret != second.token.secret
    assert first.token.key != second.token.key


def test_kept_keys_give_the_same_token_at_every_launch_until_they_are_rotated(
    tmp_path: Path,
) -> None:
    kept = check({"security": {"curve": "on", "keys": str(tmp_path)}})
    create_keys(tmp_path)
    token = choose_security(kept, None).token
    assert choose_security(kept, None).token == token
    assert choose_security(kept, token.text).token == token
    rotate_keys(tmp_path)
    with pytest.raises(ConfigError, match="is not the token of the keys in"):
        choose_security(kept, token.text)


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        (config(), "cluster links are not encrypted here; add --set security.curve=on"),
        (config(AWAY), "whose secret key is not known here; add --set security.keys=DIR"),
    ],
)
def test_a_token_with_the_key_of_another_coordinator_is_refused(found: Config, reason: str) -> None:
    with pytest.raises(ConfigError) as refused:
        choose_security(found, KEYED)
    assert reason in str(refused.value)


def test_no_secret_key_is_no_pair() -> None:
    assert read_secret_key("") is None
