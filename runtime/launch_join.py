"""A service elsewhere that this machine joins with a node, or why it cannot."""

from actors.kernel.ref import Ref
from actors.kernel.system import ActorSystem
from runtime.errors import LaunchFailed
from runtime.join_token import JoinToken
from runtime.launch_plans import JoinPlan
from runtime.network import address_towards, host_port, is_loopback
from runtime.opening import open_system
from runtime.process_parent import ProcessParent
from runtime.scratch import NodeDirectories
from runtime.settings import NodeSettings
from transport.endpoint import Peer
from transport.errors import HandshakeRefused, Unreachable
from transport.security import with_key

CONNECT_TIMEOUT_S = 10.0
MEMBER_TIMEOUT_S = 30.0


async def run_join(here: ProcessParent, plan: JoinPlan, directories: NodeDirectories) -> None:
    """Start a node that joins, say when it is in, and stay until cancelled.

    Raises:
        LaunchFailed: nobody is there, or we are refused, or it would be plaintext unasked.
    """
    host = address_towards(plan.host, plan.port)
    token = JoinToken.parse(plan.token)
    _check_encrypted(token, host, plan)
    target = host_port(plan.host, plan.port)
    here.announcer.say(f"node {plan.node} at {host} joins {target}")
    async with (
        open_system("launcher", host, 0, plan.token, model_hash=plan.model_hash) as system,
        here.watching(system, plan.hang_timeout_s),
    ):
        peer = await _connect(system, target, token)
        parent = system.spawn(here.actor, name="launcher")
        here.actor.follow(system.ref(peer.address, "coordinator"))

        async def node() -> NodeSettings:
            coordinator = await here.actor.wait_coordinator()
            return _node_settings(plan, host, directories, parent, coordinator)

        await here.start("node", node)
        await here.actor.wait_member(plan.node, MEMBER_TIMEOUT_S)
        here.children.restarts = True
        here.announcer.say(f"node {plan.node} is in the cluster")
        await system.wait_stopped()


def _check_encrypted(token: JoinToken, host: str, plan: JoinPlan) -> None:
    if token.key is None and not is_loopback(host) and not plan.insecure:
        raise LaunchFailed(
            f"this machine would be reached at {host}, and the token carries no key, so that "
            f"cluster links would not be encrypted; copy the whole --token that the launcher "
            f"printed, or add --insecure if the cluster is plaintext and that network is trusted"
        )


def _node_settings(
    plan: JoinPlan, host: str, directories: NodeDirectories, parent: Ref, coordinator: Ref
) -> NodeSettings:
    """What the node of one life is told."""
    return NodeSettings(
        name="node",
        host=host,
        token=plan.token,
        model_hash=plan.model_hash,
        parent=parent,
        node=plan.node,
        coordinator=coordinator,
        forward_logs=True,
        drain_s=plan.drain_s,
        notice=plan.notice,
        store=str(directories.store),
        landing=str(directories.landing),
        emulated_speed=plan.emulated_speed,
        faults=() if plan.chaos else None,
    )


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
