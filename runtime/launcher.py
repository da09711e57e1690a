"""Starts the processes of a service, shows how it comes up, and stops them in order.

One launcher is one machine: with a `ServicePlan` it starts coordinator, gateway and (unless the
file names other nodes only) a node; with a `JoinPlan` just a node. It holds no part of the
service itself: it is the parent that all die with, that starts again what died alone, and the
console that all speak through.
"""

import asyncio
import random
import shlex
import signal
import tempfile
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from actors.kernel.errors import ActorError
from actors.kernel.ref import Ref
from actors.kernel.system import ActorSystem
from runtime.addresses import endpoint_urls
from runtime.announcer import Announcer
from runtime.children import Children, ChildrenEvents, Prepare
from runtime.config import Config
from runtime.errors import ConfigError, LaunchFailed
from runtime.join_token import JoinToken
from runtime.launcher_actor import LauncherActor
from runtime.lives import Lives, journal_path
from runtime.network import address_towards, free_port, host_port, is_loopback
from runtime.opening import open_system
from runtime.profile import open_checkpoint
from runtime.pulse import PulseWatch
from runtime.scratch import NodeDirectories, node_directories, owned_directory
from runtime.service_security import ServiceSecurity, choose_security
from runtime.settings import NodeSettings
from transport.endpoint import Peer
from transport.errors import HandshakeRefused, TransportError, Unreachable
from transport.security import split_key, with_key

CONNECT_TIMEOUT_S = 10.0
MEMBER_TIMEOUT_S = 30.0
STOP_ORDER = (
    ("gateway", 3.0, signal.SIGTERM),
    ("node", 4.5, signal.SIGINT),
    ("coordinator", 1.5, signal.SIGTERM),
)
"""A whole service has nobody to leave its work to, so its node is asked to end now."""
NODE_GRACE_S = 4.5


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


async def launch(plan: ServicePlan | JoinPlan) -> None:
    """Run until a signal.

    Raises:
        LaunchFailed: the service could not start, or a part of it ended for good.
    """
    with (
        owned_directory(Path(tempfile.gettempdir()), "launch") as scratch,
        node_directories() as directories,
    ):
        async with asyncio.TaskGroup() as tasks:
            launcher = _Launcher(tasks, shows_other_nodes=isinstance(plan, ServicePlan))
            if isinstance(plan, ServicePlan):
                running = _run_service(launcher, plan, scratch, directories)
            else:
                running = _run_join(launcher, plan, directories)
            starting = tasks.create_task(launcher.follow(running))
            failure = await launcher.outcome
            launcher.announcer.close()
            launcher.say_stopping(failure)
            starting.cancel()
            for role, grace_s, number in _stop_order(plan):
                await launcher.children.stop(role, grace_s, number)
    if failure is not None:
        raise LaunchFailed(failure)


def _stop_order(plan: ServicePlan | JoinPlan) -> tuple[tuple[str, float, int], ...]:
    if isinstance(plan, ServicePlan):
        return STOP_ORDER
    return (("node", plan.drain_s + NODE_GRACE_S, signal.SIGTERM),)


class _Launcher:
    """What the two ways of launching share: children, console, and how it all ends."""

    def __init__(self, tasks: asyncio.TaskGroup, *, shows_other_nodes: bool) -> None:
        self.outcome: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()
        self.announcer = Announcer()
        self._is_service = shows_other_nodes
        self.actor = LauncherActor(self.announcer, self.end, shows_other_nodes=shows_other_nodes)
        events = ChildrenEvents(
            on_line=self.announcer.show_line,
            on_started=self.actor.begin,
            on_ended=self.actor.end,
            on_started_again=self.announcer.say_started_again,
            on_final_end=self.end,
            on_left=self._on_left,
            on_disorderly_stop=self.announcer.say,
        )
        self._tasks = tasks
        self.children = Children(tasks, events, random.Random())
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, self._on_signal)

    def end(self, failure: str | None) -> None:
        """Settle how it ends; the first one who says so is right."""
        self.children.close()
        if not self.outcome.done():
            self.outcome.set_result(failure)

    def say_stopping(self, failure: str | None) -> None:
        """Say it; of a stop that was asked for, the children's losing each other is no news."""
        self.announcer.say("stopping" if failure is None else "stopping after a failure")
        if failure is None:
            self.announcer.mute()

    def _on_left(self, role: str) -> None:
        """Of a service, the rest goes on; of a machine that had joined, there is no rest."""
        self.announcer.say(f"the {role} has left the cluster")
        if not self._is_service:
            self.end(None)

    def _on_signal(self) -> None:
        """The first signal stops in order, the second at once."""
        if self.outcome.done():
            self.children.kill_all()
        self.end(None)

    async def follow(self, running: Coroutine[Any, Any, None]) -> None:
        """Run until cancelled; a fault of the world settles the outcome."""
        try:
            await running
        except (LaunchFailed, TransportError, ActorError) as error:
            self.end(str(error))

    @asynccontextmanager
    async def watching(self, system: ActorSystem, timeout_s: float) -> AsyncIterator[None]:
        """End children that hang, while this is held; they are started again as if they died."""

        def on_hang(role: str, pid: int) -> None:
            self.children.end_hung(role, pid, timeout_s)

        watch = PulseWatch(system, self.actor.living, on_hang, timeout_s)
        task = self._tasks.create_task(watch.run())
        try:
            yield
        finally:
            task.cancel()

    async def start(self, role: str, prepare: Prepare) -> Ref:
        """Keep a child from now on, and wait until it says that it is up."""
        self.children.keep(role, prepare)
        return await self.actor.wait_up(role)


async def _run_service(
    launcher: _Launcher, plan: ServicePlan, scratch: Path, directories: NodeDirectories
) -> None:
    config, security = _with_ports(plan.config), choose_security(plan.config, plan.token)
    token, model_hash = security.token.text, open_checkpoint(config).content_hash
    node = launcher.announcer.own_node = local_node(plan.config, plan.node)
    host = config.cluster.host
    async with (
        open_system("launcher", host, 0, token, model_hash=model_hash) as system,
        launcher.watching(system, config.cluster.hang_timeout_s),
    ):
        parent = system.spawn(launcher.actor, name="launcher")
        lives = Lives(
            launcher.actor,
            parent,
            config,
            token,
            node or "",
            journal_path(config, scratch),
            directories,
            secret_key=security.secret_key,
            model_hash=model_hash,
        )
        lives.coordinator_ref = await launcher.start("coordinator", lives.coordinator)
        _announce_address(launcher.announcer, lives.coordinator_ref, security)
        launcher.actor.follow(lives.coordinator_ref)
        if node is not None:
            launcher.children.keep("node", lives.node)
        await launcher.start("gateway", lives.gateway)
        ready = await launcher.actor.wait_ready(config.cluster.join_timeout_s)
        launcher.children.restarts = True
        launcher.announcer.ready(*endpoint_urls(config), ready)
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


async def _run_join(launcher: _Launcher, plan: JoinPlan, directories: NodeDirectories) -> None:
    host = address_towards(plan.host, plan.port)
    token = JoinToken.parse(plan.token)
    if token.key is None and not is_loopback(host) and not plan.insecure:
        raise LaunchFailed(
            f"this machine would be reached at {host}, and the token carries no key, so that "
            f"cluster links would not be encrypted; copy the whole --token that the launcher "
            f"printed, or add --insecure if the cluster is plaintext and that network is trusted"
        )
    target = host_port(plan.host, plan.port)
    launcher.announcer.say(f"node {plan.node} at {host} joins {target}")
    async with (
        open_system("launcher", host, 0, plan.token, model_hash=plan.model_hash) as system,
        launcher.watching(system, plan.hang_timeout_s),
    ):
        peer = await _connect(system, target, token)
        parent = system.spawn(launcher.actor, name="launcher")
        launcher.actor.follow(system.ref(peer.address, "coordinator"))

        async def node() -> NodeSettings:
            return NodeSettings(
                name="node",
                host=host,
                token=plan.token,
                model_hash=plan.model_hash,
                parent=parent,
                node=plan.node,
                coordinator=await launcher.actor.wait_coordinator(),
                forward_logs=True,
                drain_s=plan.drain_s,
                notice=plan.notice,
                store=str(directories.store),
                landing=str(directories.landing),
                emulated_speed=plan.emulated_speed,
                faults=() if plan.chaos else None,
            )

        await launcher.start("node", node)
        await launcher.actor.wait_member(plan.node, MEMBER_TIMEOUT_S)
        launcher.children.restarts = True
        launcher.announcer.say(f"node {plan.node} is in the cluster")
        await system.wait_stopped()


async def _connect(system: ActorSystem, target: str, token: JoinToken) -> Peer:
    """Reach the cluster, or say what the operator can do about it."""
    address = f"tcp://{target}" if token.key is None else with_key(f"tcp://{target}", token.key)
    try:
        return await system.connect(address, timeout_s=CONNECT_TIMEOUT_S)
    except HandshakeRefused as error:
        raise LaunchFailed(
            f"cannot join {target}: {error}; compare --join, --token and the version with those "
            f"of the launcher there"
        ) from None
    except Unreachable as error:
        raise LaunchFailed(
            f"cannot join {target}: {error}; expected a launcher that prints this cluster address"
        ) from None
