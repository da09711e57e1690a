"""Where the halves of the HTTP endpoint are, as the configuration says: clients', operator's. Pure.

It stands apart from the gateway, so that a launcher can say it without loading an HTTP server.
"""

from runtime.config import Config
from runtime.network import host_port, is_loopback


def is_admin_apart(config: Config) -> bool:
    """Whether the operator's endpoints have a port of their own."""
    if config.admin.place == "auto":
        return not is_loopback(config.http.host)
    return config.admin.place == "own"


def admin_host(config: Config) -> str:
    """The address that the operator's endpoints are bound to."""
    return config.admin.host if is_admin_apart(config) else config.http.host


def endpoint_urls(config: Config) -> tuple[str, str]:
    """Where clients connect, and where the operator's endpoints and the dashboard are."""
    http, admin = config.http, config.admin
    scheme = "https" if config.tls.certificate else "http"
    clients = f"{scheme}://{host_port(http.host, http.port)}"
    if not is_admin_apart(config):
        return clients, clients
    own = "http" if is_loopback(admin.host) else scheme
    return clients, f"{own}://{host_port(admin.host, admin.port)}"
