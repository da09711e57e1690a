"""What a launch is to bring about: a service of this machine's own, or its part in another one."""

from dataclasses import dataclass

from runtime.config import Config
from runtime.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class ServicePlan:
    """A service to start here; a `token` or `node` of None is chosen."""

    config: Config
    token: str | None
    node: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinPlan:
    """A service elsewhere that this machine is to join; `model_hash` is of its copy, if told."""

    host: str
    port: int
    token: str
    node: str
    insecure: bool
    model_hash: str = ""
    drain_s: float = 30.0
    notice: str = ""
    chaos: bool = False
    hang_timeout_s: float = 10.0
    emulated_speed: float = 1.0


def local_node(config: Config, name: str | None) -> str | None:
    """The node this machine plays: its own where none are listed, else the one named, if any.

    Raises:
        ConfigError: nodes are listed and the one named is not among them.
    """
    listed = [node.id for node in config.nodes]
    if not listed:
        return name or "local"
    if name is not None and name not in listed:
        raise ConfigError(
            f"--node-id: expected one of the file's [[nodes]] ({', '.join(listed)}), got {name!r}"
        )
    return name
