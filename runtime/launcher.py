"""Starts the processes of a service, shows how it comes up, and stops them in order.

One launcher is one machine: with a `ServicePlan` it starts coordinator, gateway and (unless the
file names other nodes only) a node; with a `JoinPlan` just a node. It holds no part of the
service itself: it is the parent that all die with, and the console that all speak through.
"""

import asyncio
import secrets
import signal
from dataclasses import dataclass

from actors.kernel.errors import ActorError
from actors.kernel.ref import Ref

from actors.messages import Subscribe
from runtime.announcer import Announcer
from runtime.children import Children
from runtime.config import Config
from runtime.errors import LaunchFailed
from runtime.launcher_actor import LauncherActor
from runtime.network import address_towards, is_loopback, join_host_port
from runtime.opening import open_system
from runtime.settings import ChildSettings, CoordinatorSettings, GatewaySettings, NodeSettings
from transport.endpoint import Lane
from transport.errors import TransportError

CONNECT_TIMEOUT_S = 10.0
STOP_ORDER = (("gateway", 3.0), ("node", 4.5), ("coordinator", 1.5))


@dataclass(frozen=True, slots=True, kw_only=True)
class ServicePlan:
    """A service to start here; a `token` or `node` of None is chosen."""

    config: Config
    token: str | None
    node: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinPlan:
    """A service elsewhere that this machine is to join."""

    host: str
    port: int
    token: str
    node: str
    insecure: bool


async def launch(plan: ServicePlan | JoinPlan) -> None:
    """Run until a signal.

    Raises:
        LaunchFailed: the service could not start, or a part of it ended by itself.
    """
    outcome: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()
    announcer = Announcer()
    async with asyncio.TaskGroup() as tasks:
        children = Children(tasks, announcer.show_line, lambda why: _settle(outcome, why))
        _handle_signals(outcome, children)
        starting = tasks.create_task(_run(plan, announcer, children, outcome))
        failure = await outcome
        announcer.say("stopping" if failure is None else "stopping after a failure")
        starting.cancel()
        for role, grace_s in STOP_ORDER:
            await children.stop(role, grace_s)
    if failure is not None:
        raise LaunchFailed(failure)


def _settle(outcome: "asyncio.Future[str | None]", why: str | None) -> None:
    if not outcome.done():
        outcome.set_result(why)


def _handle_signals(outcome: "asyncio.Future[str | None]", children: Children) -> None:
    """The first signal stops in order, the second at once."""

    def on_signal() -> None:
        if outcome.done():
            children.kill_all()
        _settle(outcome, None)

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, on_signal)


async def _run(
    plan: ServicePlan | JoinPlan,
    announcer: Announcer,
    children: Children,
    outcome: "asyncio.Future[str | None]",
) -> None:
    """Start everything and follow it until cancelled; a failure settles the outcome."""
    try:
        if isinstance(plan, ServicePlan):
            await _run_service(plan, announcer, children, outcome)
        else:
            await _run_join(plan, announcer, children, outcome)
    except (LaunchFailed, TransportError, ActorError) as error:
        _settle(outcome, str(error))


async def _run_service(
    plan: ServicePlan,
    announcer: Announcer,
    children: Children,
    outcome: "asyncio.Future[str | None]",
) -> None:
    config, token = plan.config, plan.token or secrets.token_urlsafe(24)
    host = config.cluster.host
    async with open_system("launcher", host, 0, token) as system:
        actor = LauncherActor(announcer, lambda why: _settle(outcome, why))
        self_ref = system.spawn(actor, name="launcher")
        common = {"host": host, "token": token, "parent": self_ref}
        coordinator = await _start(
            children,
            actor,
            CoordinatorSettings(
                name="coordinator", port=config.cluster.port, config=config, **common
            ),
        )
        address = coordinator.address.removeprefix("tcp://")
        announcer.say(f"cluster address {address}")
        announcer.join_line = f"python -m runtime.launch --join {address} --token {token}"
        system.tell(coordinator, Subscribe(ref=self_ref), lane=Lane.CONTROL)
        if (node := _local_node(plan)) is not None:
            await children.start(
                NodeSettings(name="node", node=node, coordinator=coordinator, **common)
            )
        await _start(
            children,
            actor,
            GatewaySettings(name="gateway", config=config, coordinator=coordinator, **common),
        )
        await actor.wait_ready()
        announcer.ready(config, actor.plan)
        await system.wait_stopped()


def _local_node(plan: ServicePlan) -> str | None:
    """The node this machine plays: its own where nodes are not listed, else the one named."""
    listed = [node.id for node in plan.config.nodes]
    if not listed:
        return plan.node or "local"
    return plan.node if plan.node in listed else None


async def _run_join(
    plan: JoinPlan,
    announcer: Announcer,
    children: Children,
    outcome: "asyncio.Future[str | None]",
) -> None:
    host = address_towards(plan.host, plan.port)
    if not is_loopback(host) and not plan.insecure:
        raise LaunchFailed(_INSECURE.format(host=host))
    announcer.say(f"node {plan.node} at {host} joins {join_host_port(plan.host, plan.port)}")
    async with open_system("launcher", host, 0, plan.token) as system:
        peer = await system.connect(
            f"tcp://{join_host_port(plan.host, plan.port)}", timeout_s=CONNECT_TIMEOUT_S
        )
        coordinator = Ref(
            address=peer.address, incarnation=peer.incarnation, name="coordinator", generation=0
        )
        actor = LauncherActor(announcer, lambda why: _settle(outcome, why))
        self_ref = system.spawn(actor, name="launcher")
        await _start(
            children,
            actor,
            NodeSettings(
                name="node",
                host=host,
                token=plan.token,
                parent=self_ref,
                node=plan.node,
                coordinator=coordinator,
                forward_logs=True,
            ),
        )
        announcer.say(f"joined as {plan.node}")
        system.tell(coordinator, Subscribe(ref=self_ref), lane=Lane.CONTROL)
        await system.wait_stopped()


_INSECURE = (
    "this machine would be reached at {host}, where cluster links are not encrypted; "
    "add --insecure if that network is trusted"
)


async def _start(children: Children, actor: LauncherActor, settings: ChildSettings) -> Ref:
    """Start a child and wait until it says that it is up; its end settles the outcome."""
    await children.start(settings)
    return await actor.wait_up(settings.name)
