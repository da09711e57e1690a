"""Addresses of this machine: which one others reach, which are loopback, which ports are free."""

import ipaddress
import socket

from runtime.errors import LaunchFailed

MAX_PORT = 65535


def address_towards(host: str, port: int) -> str:
    """Our own address on the way to `host`, as the routing table says; nothing is sent.

    Raises:
        LaunchFailed: the name cannot be resolved or there is no way there.
    """
    try:
        family, _, _, _, target = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect(target)
            return str(probe.getsockname()[0])
    except (OSError, UnicodeError) as error:
        raise LaunchFailed(f"there is no way to {host}: {_reason(error)}") from None


def is_loopback(host: str) -> bool:
    """Whether only processes of this machine can reach an address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def host_port(host: str, port: int) -> str:
    """`HOST:PORT`, with the brackets an IPv6 address needs."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def parse_address(text: str) -> tuple[str, int] | None:
    """The host and port of `HOST:PORT`, an IPv6 host in brackets; None if it is not of that form.

    Example:
        >>> parse_address("[::1]:7000")
        ('::1', 7000)
    """
    host, _, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        return None
    if not host or not (port.isascii() and port.isdigit()) or not 0 < int(port[:6]) <= MAX_PORT:
        return None
    return host, int(port)


def why_not_bindable(host: str, port: int) -> str | None:
    """Why a TCP port cannot be listened at, or None if it can."""
    try:
        family, _, _, _, target = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(target)
    except (OSError, UnicodeError) as error:
        return _reason(error)
    return None


def free_port(host: str) -> int:
    """A TCP port of `host` that nobody listens at now."""
    family, _, _, _, target = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)[0]
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.bind(target)
        return int(probe.getsockname()[1])


def _reason(error: OSError | UnicodeError) -> str:
    """In words; a host name that no name can be (`a..b`) fails as text, not as an address."""
    return (isinstance(error, OSError) and error.strerror) or str(error)
