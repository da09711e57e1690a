"""The join token: what a machine needs to become part of a cluster, as one string.

Of a plaintext cluster it is the secret that all its processes share. Of an encrypted one the
coordinator's public key stands behind it, `SECRET.KEY`, so that whoever joins speaks to that
coordinator or to nobody, and a process that is given the token knows that it is to encrypt.
"""

import secrets
from dataclasses import dataclass, field

from transport.errors import DecodeError
from transport.security import KEY_CHARACTERS, key_text, read_key

SECRET_BYTES = 24


@dataclass(frozen=True, slots=True)
class JoinToken:
    """A cluster's secret, and its coordinator's public key where links are encrypted."""

    secret: str = field(repr=False)
    key: bytes | None = None

    @classmethod
    def parse(cls, text: str) -> "JoinToken":
        """Read what `text` wrote; whatever else it is, is a secret without a key.

        Example:
            >>> JoinToken.parse("chosen.by.hand")
            JoinToken(key=None)
        """
        secret, dot, key = text.rpartition(".")
        if dot and len(key) == KEY_CHARACTERS:
            try:
                return cls(secret, read_key(key))
            except DecodeError:
                pass
        return cls(text)

    @property
    def text(self) -> str:
        """The string to hand out."""
        return self.secret if self.key is None else f"{self.secret}.{key_text(self.key)}"


def new_secret() -> str:
    """A secret that nobody guesses; no `-` stands first, which a command line takes for a flag."""
    return secrets.token_hex(SECRET_BYTES)
