"""Addresses of this machine: which one others reach, which are loopback, which ports are free."""

import ipaddress
import socket

from runtime.errors import LaunchFailed


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
    except OSError as error:
        raise LaunchFailed(f"there is no way to {host}: {error.strerror}") from None


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


def why_not_bindable(host: str, port: int) -> str | None:
    """Why a TCP port cannot be listened at, or None if it can."""
    try:
        family, _, _, _, target = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(target)
    except OSError as error:
        return error.strerror or str(error)
    return None


def free_port(host: str) -> int:
    """A TCP port of `host` that nobody listens at now."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])
