"""The gateway's process: the HTTP endpoint and the router behind it."""

import os
import random
from contextlib import AsyncExitStack

from actors.kernel.system import ActorSystem
from actors.messages import ProcessUp
from actors.router import RouterActor, RouterLimits
from models.grammar import GrammarMasks
from models.tokenizer import Tokenizer
from runtime.child import run_child
from runtime.dashboard.kills import ProcessKills
from runtime.gateway.app import Apps, Limits, create_apps
from runtime.gateway.generation import ModelFacts
from runtime.gateway.listening import listen, new_safeguards, new_telemetry, trace
from runtime.link_orders import LinkOrders
from runtime.profile import max_model_len, model_name, model_path, open_checkpoint
from runtime.router_backend import RouterBackend
from runtime.router_facts import RouterFacts
from runtime.router_operator import RouterOperator
from runtime.settings import GatewaySettings
from runtime.telemetry.telemetry import Telemetry
from runtime.version import package_version
from transport.endpoint import Lane


async def start(settings: GatewaySettings, system: ActorSystem, ending: AsyncExitStack) -> None:
    """Listen for clients, and tell the launcher."""
    config = settings.config
    telemetry = new_telemetry(config, model_name(config))
    router = _router(settings, telemetry)
    ref = system.spawn(router, name="router")
    telemetry.watch(RouterFacts(router, system))
    apps = _apps(settings, system, router, telemetry)
    await trace(config, telemetry, random.Random(), ending)
    await listen(apps, config, ending)
    ending.callback(router.fail_all, "shutdown", "the service is stopping")
    up = ProcessUp(role=settings.name, ref=ref, pid=os.getpid())
    system.tell(settings.parent, up, lane=Lane.CONTROL)


def _router(settings: GatewaySettings, telemetry: Telemetry) -> RouterActor:
    serving = settings.config.serving
    return RouterActor(
        settings.coordinator.whichever(),
        RouterLimits(max_held=serving.max_held, recovery_timeout_s=serving.recovery_timeout_s),
        pid=os.getpid(),
        on_plan=telemetry.on_plan,
    )


def _apps(
    settings: GatewaySettings, system: ActorSystem, router: RouterActor, telemetry: Telemetry
) -> Apps:
    """The endpoints over a router: the clients', and the operator's."""
    config = settings.config
    checkpoint, directory = open_checkpoint(config), model_path(config.model.path)
    backend = RouterBackend(router, system, config.serving.token_timeout_s)
    return create_apps(
        backend,
        Tokenizer.from_directory(directory),
        ModelFacts(
            name=model_name(config),
            max_len=max_model_len(config, checkpoint),
            eos_token_ids=checkpoint.config.eos_token_ids,
        ),
        grammars=GrammarMasks(
            directory / "tokenizer.json",
            checkpoint.config.vocab_size,
            checkpoint.config.eos_token_ids,
        ),
        version=package_version(),
        limits=Limits(
            max_body_bytes=config.http.max_body_bytes, body_timeout_s=config.http.body_timeout_s
        ),
        rng=random.Random(),
        operator=_operator(settings, system, router, backend),
        safeguards=new_safeguards(config, telemetry, router.room),
    )


def _operator(
    settings: GatewaySettings, system: ActorSystem, router: RouterActor, backend: RouterBackend
) -> RouterOperator:
    """What an operator may do; faults and kills only where the configuration allows them."""
    coordinator = settings.coordinator.whichever()
    may_disturb = settings.faults is not None
    links = LinkOrders(system, coordinator, random.Random()) if may_disturb else None
    kills = ProcessKills(backend.plan, os.getppid()) if settings.config.admin.kill else None
    return RouterOperator(router, system, coordinator, links, kills)


def main() -> None:
    """Live as the gateway's process."""
    run_child(GatewaySettings, start)
