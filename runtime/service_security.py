"""Whether a service's links are encrypted, and the token and keys it is launched with.

Off loopback they are encrypted unless plaintext was asked for by name, on loopback if it was asked
for. Pure but for the key file.
"""

from dataclasses import dataclass, field
from pathlib import Path

from runtime.cluster_keys import ClusterKeys, load_keys
from runtime.config import Config
from runtime.errors import ConfigError
from runtime.join_token import JoinToken, new_secret
from runtime.network import is_loopback
from transport.security import KeyPair, key_text, read_key


@dataclass(frozen=True, slots=True)
class ServiceSecurity:
    """The token of a service, and its coordinator's secret key as text, empty without one."""

    token: JoinToken
    secret_key: str = field(default="", repr=False)

    @property
    def is_encrypted(self) -> bool:
        """Whether the service's links are."""
        return bool(self.secret_key)


def is_encrypted(config: Config) -> bool:
    """Whether a service so configured encrypts the links between its processes."""
    curve, cluster = config.security.curve, config.cluster
    return curve == "on" or (
        curve == "auto" and not cluster.insecure and not is_loopback(cluster.host)
    )


def choose_security(config: Config, token: str | None) -> ServiceSecurity:
    """The token and keys to launch a service with.

    Args:
        config: the service's.
        token: the operator's own, or None for a random one.

    Raises:
        ConfigError: keys that cannot be read, or a token that is not of these keys.
    """
    given = JoinToken.parse(token) if token else None
    if not is_encrypted(config):
        if given is not None and given.key is not None:
            raise ConfigError(
                "--token carries a coordinator's key, but cluster links are not encrypted here; "
                "add --set security.curve=on, or give a token without the key"
            )
        return ServiceSecurity(given or JoinToken(new_secret()))
    keys = _keys(config, given)
    return ServiceSecurity(keys.token, key_text(keys.coordinator.secret))


def _keys(config: Config, given: JoinToken | None) -> ClusterKeys:
    folder = config.security.keys
    if not folder:
        if given is not None and given.key is not None:
            raise ConfigError(
                "--token carries the key of a coordinator whose secret key is not known here; "
                "add --set security.keys=DIR, the folder that `remuda keys create` made, or "
                "give a token without the key"
            )
        return ClusterKeys.fresh(given.secret if given is not None else None)
    keys = load_keys(Path(folder))
    if given is not None and given != keys.token:
        raise ConfigError(
            f"--token is not the token of the keys in {folder}; leave it out, or see "
            f"`remuda keys show --token {folder}`"
        )
    return keys


def read_secret_key(text: str) -> KeyPair | None:
    """The key pair of a secret key as settings carry it; None if there is none."""
    return KeyPair.of_secret(read_key(text)) if text else None
