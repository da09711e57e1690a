"""A service that this machine starts: coordinator, its own node if it has one, and gateway."""

import shlex
from pathlib import Path

import msgspec

from actors.kernel.ref import Ref
from runtime.addresses import endpoint_urls
from runtime.announcer import Announcer
from runtime.config import Config
from runtime.launch_plans import ServicePlan, local_node
from runtime.lives import Lives, journal_path
from runtime.network import free_port
from runtime.opening import open_system
from runtime.process_parent import ProcessParent
from runtime.profile import open_checkpoint
from runtime.scratch import NodeDirectories
from runtime.service_security import ServiceSecurity, choose_security
from transport.security import split_key


async def run_service(
    here: ProcessParent, plan: ServicePlan, scratch: Path, directories: NodeDirectories
) -> None:
    """Start them in their order, say when the service is up, and stay until cancelled.

    Raises:
        ConfigError: there is no such model, or no such node in the file.
        LaunchFailed: the service did not come up in time.
    """
    config, security = _with_ports(plan.config), choose_security(plan.config, plan.token)
    token, model_hash = security.token.text, open_checkpoint(config).content_hash
    node = here.announcer.own_node = local_node(plan.config, plan.node)
    host = config.cluster.host
    async with (
        open_system("launcher", host, 0, token, model_hash=model_hash) as system,
        here.watching(system, config.cluster.hang_timeout_s),
    ):
        parent = system.spawn(here.actor, name="launcher")
        lives = Lives(
            here.actor,
            parent,
            config,
            token,
            node or "",
            journal_path(config, scratch),
            directories,
            secret_key=security.secret_key,
            model_hash=model_hash,
        )
        lives.coordinator_ref = await here.start("coordinator", lives.coordinator)
        _announce_address(here.announcer, lives.coordinator_ref, security)
        here.actor.follow(lives.coordinator_ref)
        if node is not None:
            here.children.keep("node", lives.node)
        await here.start("gateway", lives.gateway)
        ready = await here.actor.wait_ready(config.cluster.join_timeout_s)
        here.children.restarts = True
        here.announcer.ready(*endpoint_urls(config), ready)
        await system.wait_stopped()


def _with_ports(config: Config) -> Config:
    """The configuration with ports for the endpoints where any free one was asked for."""
    http, admin = config.http, config.admin
    if not http.port:
        http = msgspec.structs.replace(http, port=free_port(http.host))
    if not admin.port:
        admin = msgspec.structs.replace(admin, port=free_port(admin.host))
    return msgspec.structs.replace(config, http=http, admin=admin)


def _announce_address(announcer: Announcer, coordinator: Ref, security: ServiceSecurity) -> None:
    """The address without the key that it may carry: the token carries it, too."""
    address = split_key(coordinator.address)[0].removeprefix("tcp://")
    announcer.say(f"cluster address {address}")
    announcer.say(f"cluster links are {'encrypted' if security.is_encrypted else 'plaintext'}")
    join = f"--join {address} --token {shlex.quote(security.token.text)}"
    announcer.join_line = f"python -m runtime.launch {join}"
