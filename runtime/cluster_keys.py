"""The keys a cluster keeps: its coordinator's key pair and the secret of its join token.

They stand in one file of a folder, which its owner alone may read (0600); a file that others can
read is refused, since its keys may be theirs by now. The file is replaced as a whole, so that a
crash leaves the old keys or the new ones. All other processes make keys of their own, in memory,
each life of them anew.
"""

import os
import stat
import tempfile
import tomllib
from dataclasses import dataclass, field
from pathlib import Path

from runtime.errors import ConfigError
from runtime.join_token import JoinToken, new_secret
from transport.errors import DecodeError
from transport.security import KeyPair, key_text, read_key

FILE = "cluster.keys"
HEADING = "# Keys of a Remuda cluster: whoever reads them can join it and be its coordinator.\n"


@dataclass(frozen=True, slots=True)
class ClusterKeys:
    """What a service needs to be the same cluster each time it is launched."""

    coordinator: KeyPair
    secret: str = field(repr=False)

    @classmethod
    def fresh(cls, secret: str | None = None) -> "ClusterKeys":
        """New keys, with a secret of one's own or a new one."""
        return cls(KeyPair.fresh(), secret or new_secret())

    @property
    def token(self) -> JoinToken:
        """The token that lets a machine join."""
        return JoinToken(self.secret, self.coordinator.public)


def create_keys(folder: Path) -> ClusterKeys:
    """Make the keys of a new cluster.

    Raises:
        ConfigError: there are keys already, or they cannot be written.
    """
    if (folder / FILE).exists():
        raise ConfigError(
            f"keys: {folder / FILE} is there already; `remuda keys rotate {folder}` replaces it"
        )
    return _written(folder, ClusterKeys.fresh())


def rotate_keys(folder: Path) -> ClusterKeys:
    """Replace key pair and secret; whoever holds the old token can join no more.

    A service that runs keeps the keys it was launched with until it is launched again.

    Raises:
        ConfigError: there are no keys, they are not ours alone, or they cannot be written.
    """
    load_keys(folder)
    return _written(folder, ClusterKeys.fresh())


def load_keys(folder: Path) -> ClusterKeys:
    """Read the keys of a folder.

    Raises:
        ConfigError: there are none, others may read them, or they are garbled.
    """
    path = folder / FILE
    try:
        with path.open("rb") as file:
            _refuse_exposed(path, os.fstat(file.fileno()))
            return _parse(path, tomllib.loads(file.read(4096).decode()))
    except FileNotFoundError:
        raise ConfigError(
            f"keys: there is no {path}; `remuda keys create {folder}` makes it"
        ) from None
    except OSError as error:
        raise ConfigError(f"keys: cannot read {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"keys: {path} is not TOML: {error}") from None


def _refuse_exposed(path: Path, facts: os.stat_result) -> None:
    mode = stat.S_IMODE(facts.st_mode)
    if mode & 0o077:
        raise ConfigError(
            f"keys: {path} has mode {mode:04o}, expected 0600: others may have read it; "
            f"make it 0600 and `remuda keys rotate {path.parent}`"
        )
    if facts.st_uid != os.geteuid():
        raise ConfigError(
            f"keys: {path} belongs to user {facts.st_uid}, expected {os.geteuid()}, who runs this"
        )


def _parse(path: Path, plain: dict[str, object]) -> ClusterKeys:
    secret_key, secret = plain.get("coordinator_secret_key"), plain.get("join_secret")
    known = {"coordinator_secret_key", "join_secret"}
    if set(plain) != known or not isinstance(secret_key, str) or not isinstance(secret, str):
        raise ConfigError(f"keys: {path} holds {sorted(plain)}, expected {sorted(known)} as text")
    if not secret:
        raise ConfigError(f"keys: join_secret of {path} is empty; rotate the keys")
    try:
        return ClusterKeys(KeyPair.of_secret(read_key(secret_key)), secret)
    except DecodeError:  # its text would show the key
        raise ConfigError(
            f"keys: coordinator_secret_key of {path} is no key; create them anew"
        ) from None


def _written(folder: Path, keys: ClusterKeys) -> ClusterKeys:
    text = (
        f"{HEADING}"
        f'coordinator_secret_key = "{key_text(keys.coordinator.secret)}"\n'
        f'join_secret = "{keys.secret}"\n'
    )
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _replace(folder / FILE, text.encode())
    except OSError as error:
        raise ConfigError(f"keys: cannot write {folder / FILE}: {error.strerror}") from None
    return keys


def _replace(path: Path, data: bytes) -> None:
    """Put a file there as a whole, readable by us alone from its first moment."""
    number, name = tempfile.mkstemp(prefix=f"{FILE}.", dir=path.parent)  # made with mode 0600
    try:
        with os.fdopen(number, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except OSError:
        Path(name).unlink(missing_ok=True)
        raise
