"""What a parent process hands each child on its standard input: one typed record per role.

It holds addresses and the join token, so it never goes through argv or the environment.
"""

import sys
from typing import TypeVar

import msgspec
from msgspec import Struct

from actors.kernel.ref import Ref
from actors.messages import DisturbLinks
from runtime.config import Config
from runtime.errors import ConfigError


class ChildSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What every child needs: who it is, where it listens, whom it reports to.

    `faults` disturb its links from its beginning; None means that nothing may ever disturb them.
    `secret_key` is of a process whose public key others know before it begins, the coordinator's.
    """

    name: str
    host: str
    port: int = 0
    token: str
    parent: Ref
    faults: tuple[DisturbLinks, ...] | None = None
    model_hash: str = ""
    secret_key: str = ""


class CoordinatorSettings(ChildSettings, frozen=True, kw_only=True):
    """The coordinator's process; `journal` is the file of what it must not forget."""

    config: Config
    journal: str = ""


class GatewaySettings(ChildSettings, frozen=True, kw_only=True):
    """The gateway's process, with its router."""

    config: Config
    coordinator: Ref


class NodeSettings(ChildSettings, frozen=True, kw_only=True):
    """A node's process; asked to end, it has `drain_s` seconds to have its work taken over.

    `store` is the directory in shared memory where its weights stay, and `landing` that for what
    comes from other nodes; empty are none. `emulated_speed` is the part of their speed at which its
    devices play slower ones.
    """

    node: str
    coordinator: Ref
    forward_logs: bool = False
    drain_s: float = 0.0
    notice: str = ""
    store: str = ""
    landing: str = ""
    emulated_speed: float = 1.0


class WorkerSettings(ChildSettings, frozen=True, kw_only=True):
    """A stage worker's process."""

    worker: str
    device: str
    num_threads: int
    store: str = ""
    landing: str = ""
    emulated_speed: float = 1.0


_S = TypeVar("_S", bound=ChildSettings)


def to_plain(settings: ChildSettings) -> dict[str, object]:
    """The JSON object that `read_settings` of the same type reads."""
    plain: dict[str, object] = msgspec.to_builtins(settings)
    return plain


def read_settings(kind: type[_S]) -> _S:
    """Read our settings from standard input, which stays open as the parent's lifeline.

    Raises:
        ConfigError: there is no line of them, as when somebody starts a child by hand.
    """
    try:
        return msgspec.json.decode(sys.stdin.buffer.readline(), type=kind)
    except msgspec.MsgspecError as error:
        raise ConfigError(
            f"settings: expected one line from a parent process on standard input: {error}"
        ) from None
