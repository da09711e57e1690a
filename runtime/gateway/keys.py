"""API keys: who a caller is, what it may do and how much of it.

Only the SHA-256 of a key is kept, in a file of one JSON object; a key has 256 random bits, so that
no slower hash is needed. Every known hash is compared, each in constant time. A key is shown once,
when it is made, and stands in no log, error or metric; its `id` does.
"""

import hashlib
import hmac
import logging
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from runtime.errors import ConfigError
from runtime.gateway.targets import Targets

_log = logging.getLogger(__name__)

Scope = Literal["serve", "admin", "metrics"]
SCOPES: tuple[Scope, ...] = ("serve", "admin", "metrics")
PREFIX = "rk-"
MAX_KEY_CHARACTERS = 512
MIN_KEY_CHARACTERS = 16
"""Keys from the environment are chosen by people; a shorter one can be guessed."""
MAX_PRIORITY = 100
RELOAD_S = 1.0
"""How soon a change of the file is seen, at the next request after it."""
SERVE_ENV, ADMIN_ENV = "REMUDA_API_KEYS", "REMUDA_ADMIN_KEYS"

NonNegative = Annotated[int, Meta(ge=0, le=1 << 40)]


class Quota(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How much of the service a caller may use; 0 sets no bound."""

    requests_per_minute: NonNegative = 0
    tokens_per_minute: NonNegative = 0
    max_concurrent: NonNegative = 0


class ApiKey(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One key, without the key.

    Attributes:
        id: what it is called in logs and metrics.
        sha256: of the key's text, in hexadecimal.
        name: whose it is, for people.
        scopes: what it may do; `admin` includes `metrics`.
        quota: its own; without one, that of the configuration holds.
        weight: its share of a busy service beside the others'.
        priority: of its requests, and the least number they may ask for; less goes first.
        slo: how fast its answers are to be, where requests do not say.
    """

    id: Annotated[str, Meta(pattern="^[A-Za-z0-9_.-]{1,64}$")]
    sha256: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
    name: Annotated[str, Meta(max_length=256)] = ""
    scopes: Annotated[tuple[Scope, ...], Meta(min_length=1, max_length=3)] = ("serve",)
    quota: Quota | None = None
    weight: Annotated[float, Meta(ge=0.001, le=1000)] = 1.0
    priority: Annotated[int, Meta(ge=-MAX_PRIORITY, le=MAX_PRIORITY)] = 0
    slo: Targets | None = None

    def may(self, scope: Scope) -> bool:
        """Whether it may do what asks for a scope."""
        return scope in self.scopes or (scope == "metrics" and "admin" in self.scopes)


class KeyDocument(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The file of keys."""

    keys: Annotated[tuple[ApiKey, ...], Meta(max_length=10_000)] = ()


class KeyRing:
    """The keys that are good now."""

    def __init__(self, keys: Iterable[ApiKey] = ()) -> None:
        self.keys = tuple(keys)
        self._digests = tuple(bytes.fromhex(key.sha256) for key in self.keys)

    def __len__(self) -> int:
        return len(self.keys)

    def find(self, secret: str) -> ApiKey | None:
        """The key whose text this is; takes as long whichever it is, and if it is none."""
        digest = hashlib.sha256(secret.encode("utf-8", "surrogateescape")).digest()
        found = None
        for key, known in zip(self.keys, self._digests, strict=True):
            if hmac.compare_digest(digest, known):
                found = key
        return found


class KeyFile:
    """The keys of the environment and of a file that is read again when it changes.

    A file that cannot be read any more changes nothing: the keys known before stay good, and the
    log says so.
    """

    def __init__(
        self, path: Path | None, fixed: Iterable[ApiKey], clock: Callable[[], float]
    ) -> None:
        self._path = path
        self._fixed = tuple(fixed)
        self._clock = clock
        self._stamp = _stamp(path)
        self._ring = KeyRing((*self._fixed, *_read_or_nothing(path)))
        self._look_at = clock() + RELOAD_S

    @property
    def ring(self) -> KeyRing:
        """The keys that are good now."""
        if self._path is not None and self._clock() >= self._look_at:
            self._look_at = self._clock() + RELOAD_S
            self._look()
        return self._ring

    def _look(self) -> None:
        stamp = _stamp(self._path)
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self._ring = KeyRing((*self._fixed, *_read_or_nothing(self._path)))
        except ConfigError as error:
            _log.warning("keys unchanged reason=%s", error)
        else:
            _log.info("keys read again num_keys=%d", len(self._ring))


def read_keys(path: Path) -> KeyDocument:
    """Read a file of keys.

    Raises:
        ConfigError: it is missing or is not one.
    """
    try:
        document = msgspec.json.decode(path.read_bytes(), type=KeyDocument)
    except OSError as error:
        raise ConfigError(
            f"http.keys_file: cannot read {path}: {error.strerror}; make one with "
            f"`remuda api-keys create --file {path}`"
        ) from None
    except msgspec.MsgspecError as error:
        raise ConfigError(f"http.keys_file: {path} is no file of keys: {error}") from None
    _refuse_twins(path, document.keys)
    return document


def keys_from_environment(environment: Mapping[str, str]) -> list[ApiKey]:
    """Keys in clear text, divided by commas, as deployments hand secrets to processes.

    Raises:
        ConfigError: one is too short to be secret.
    """
    found: list[ApiKey] = []
    for variable, scope in ((SERVE_ENV, "serve"), (ADMIN_ENV, "admin")):
        secrets = [text.strip() for text in environment.get(variable, "").split(",")]
        for index, secret in enumerate(text for text in secrets if text):
            found.append(_from_environment(variable, index, secret, scope == "admin"))
    return found


def sha256_of(secret: str) -> str:
    """What is kept of a key, in hexadecimal."""
    return hashlib.sha256(secret.encode()).hexdigest()


def _from_environment(variable: str, index: int, secret: str, is_admin: bool) -> ApiKey:
    if not MIN_KEY_CHARACTERS <= len(secret) <= MAX_KEY_CHARACTERS:
        raise ConfigError(
            f"{variable}: expected keys of {MIN_KEY_CHARACTERS} to {MAX_KEY_CHARACTERS} "
            f"characters, got one of {len(secret)}; `remuda api-keys create` makes good ones"
        )
    kind: Scope = "admin" if is_admin else "serve"
    return ApiKey(id=f"env-{kind}-{index}", sha256=sha256_of(secret), scopes=(kind,))


def _read_or_nothing(path: Path | None) -> tuple[ApiKey, ...]:
    return () if path is None else read_keys(path).keys


def _refuse_twins(path: Path, keys: tuple[ApiKey, ...]) -> None:
    if len({key.id for key in keys}) != len(keys):
        raise ConfigError(f"http.keys_file: two keys in {path} have the same id")


def _stamp(path: Path | None) -> tuple[int, int, int] | None:
    """What changes when a file is written or replaced."""
    if path is None:
        return None
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
