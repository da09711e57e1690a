"""From the configuration to open ports: what guards the gateway, and where its halves listen."""

import asyncio
import logging
import os
import random
import time
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from pathlib import Path

import msgspec

from runtime.addresses import admin_host, is_admin_apart
from runtime.config import Config
from runtime.errors import ConfigError
from runtime.gateway.access import Access
from runtime.gateway.admission import Room
from runtime.gateway.app import Apps
from runtime.gateway.bounds import Bounds
from runtime.gateway.keys import KeyFile, KeyRing, Quota, keys_from_environment
from runtime.gateway.safeguards import Safeguards
from runtime.gateway.server import ConnectionLimits, serving
from runtime.gateway.tls import server_context
from runtime.network import host_port, is_loopback
from runtime.telemetry.telemetry import Telemetry
from runtime.telemetry.tracing.export import TraceExport, exporting
from runtime.telemetry.tracing.otlp import OtlpSender, check_packages, url_of
from runtime.version import package_version

_log = logging.getLogger(__name__)


def check_exposure(config: Config, environment: Mapping[str, str] = os.environ) -> None:
    """Refuse to be open to a network without being told so by name.

    Raises:
        ConfigError: others than this machine could reach the service without a key or a client
            certificate, or unencrypted; or a file of keys or certificates cannot be used; or traces
            are asked for and cannot be made.
    """
    tls = config.tls
    server_context(tls.certificate, tls.private_key, tls.client_ca)
    if config.telemetry.otlp_endpoint:
        check_packages()
    has_keys = new_keys(config, lambda: 0.0, environment) is not None
    hosts = {"http.host": config.http.host}
    if is_admin_apart(config):
        hosts["admin.host"] = config.admin.host
    if config.admin.kill and not is_loopback(admin_host(config)):
        raise ConfigError(
            f"admin.kill: expected the operator's endpoints on loopback, got "
            f"{admin_host(config)}; set admin.place to own and admin.host to 127.0.0.1, or leave "
            f"out admin.kill"
        )
    for key, host in hosts.items():
        missing = _missing(config, has_keys)
        if missing and not is_loopback(host) and not config.http.insecure:
            raise ConfigError(
                f"{key} {host} is not loopback, and there is no {' and no '.join(missing)}; "
                f"make keys with `remuda api-keys create` and name the file with --set "
                f"http.keys_file=FILE, set tls.certificate and tls.private_key, or add --set "
                f"http.insecure=true if that network is trusted or a proxy does both"
            )


def _missing(config: Config, has_keys: bool) -> list[str]:
    authenticates = has_keys or bool(config.tls.client_ca)
    found = [] if authenticates else ["API key (http.keys_file) or client CA (tls.client_ca)"]
    return found if config.tls.certificate else [*found, "certificate (tls.certificate)"]


def new_keys(
    config: Config, clock: Callable[[], float], environment: Mapping[str, str] = os.environ
) -> KeyFile | None:
    """The keys that are configured, or None if there are none at all; raises `ConfigError`."""
    fixed = keys_from_environment(environment)
    path = Path(config.http.keys_file).absolute() if config.http.keys_file else None
    return None if path is None and not fixed else KeyFile(path, fixed, clock)


def new_safeguards(
    config: Config,
    telemetry: Telemetry,
    room: Callable[[], tuple[int, int] | None],
    environment: Mapping[str, str] = os.environ,
) -> Safeguards:
    """What the configuration wants between the clients and the service; needs a running loop."""
    clock = asyncio.get_running_loop().time
    keys = new_keys(config, clock, environment)
    quota = Quota(**msgspec.structs.asdict(config.quotas))

    def ring() -> KeyRing:
        return KeyRing() if keys is None else keys.ring

    def room_now() -> Room | None:
        found = room()
        return None if found is None else Room(*found)

    return Safeguards(
        access=Access(
            ring,
            clock,
            needs_key=keys is not None,
            quota=quota,
            is_local=is_loopback(admin_host(config)),
        ),
        bounds=Bounds(**msgspec.structs.asdict(config.limits)),
        telemetry=telemetry,
        room=room_now,
        cors_origins=config.http.cors_origins,
    )


def new_telemetry(config: Config, model: str) -> Telemetry:
    """Metrics and events, still without a source of facts; needs a running loop."""
    return Telemetry(
        model,
        clock=asyncio.get_running_loop().time,
        wall_clock=time.time,
        max_events=config.telemetry.max_events,
    )


async def trace(
    config: Config, telemetry: Telemetry, rng: random.Random, ending: AsyncExitStack
) -> None:
    """Have requests traced until `ending` ends, if that is configured."""
    settings = config.telemetry
    if not settings.otlp_endpoint:
        return
    sender = OtlpSender(settings.otlp_endpoint, version=package_version())
    ending.callback(sender.close)
    export = TraceExport(
        sender.send,
        rng=rng,
        clock=telemetry.requests.clock,
        wall_clock=time.time,
        registry=telemetry.registry,
        model=telemetry.model,
        ratio=settings.trace_ratio,
        max_queued=settings.max_queued_traces,
        facts=telemetry.facts,
        told=telemetry.events.all,
    )
    telemetry.tracer = export
    await ending.enter_async_context(exporting(export))
    _log.info("traces go to endpoint=%s", url_of(settings.otlp_endpoint))


async def listen(apps: Apps, config: Config, ending: AsyncExitStack) -> None:
    """Open the ports of both halves until `ending` ends."""
    tls = config.tls
    context = server_context(tls.certificate, tls.private_key, tls.client_ca)
    http, admin = config.http, config.admin
    limits = ConnectionLimits(
        idle_timeout_s=http.idle_timeout_s, max_connections=http.max_connections
    )
    if is_admin_apart(config):
        app = apps.guards.new_application(http.max_body_bytes)
        app.add_routes([*apps.admin_routes, *apps.chat_routes, *apps.about.routes()])
        own = None if is_loopback(admin.host) else context
        admin_port = await ending.enter_async_context(
            serving(app, admin.host, admin.port, tls=own, limits=limits)
        )
        _log.info("admin address=%s", host_port(admin.host, admin_port))
        clients = apps.clients
    else:
        clients = apps.together()
    await ending.enter_async_context(
        serving(clients, http.host, http.port, tls=context, limits=limits)
    )
