"""The gateway's process: the HTTP endpoint and the router behind it."""

import os
import random

from aiohttp import web

from actors.kernel.system import ActorSystem
from actors.messages import ProcessUp
from actors.router import RouterActor
from runtime.child import run_child
from runtime.gateway.backend import GenerationRequest
from runtime.profile import model_path
from runtime.router_backend import RouterBackend
from runtime.settings import GatewaySettings
from models.tokenizer import Tokenizer
from transport.endpoint import Lane


async def start(settings: GatewaySettings, system: ActorSystem) -> None:
    router = RouterActor(settings.coordinator)
    ref = system.spawn(router, name="router")
    backend = RouterBackend(router, system, settings.config.serving.token_timeout_s)
    tok = Tokenizer.from_directory(model_path(settings.config.model.path))

    async def complete(request):
        b = await request.json()
        ids = b["prompt"] if isinstance(b["prompt"], list) else tok.encode(b["prompt"])
        out = []
        async for batch in backend.submit(GenerationRequest(request_id=str(random.random()), token_ids=tuple(ids), max_tokens=b.get("max_tokens", 16), temperature=b.get("temperature", 1.0))):
            out.extend(batch.token_ids)
        return web.json_response({"choices": [{"text": tok.decode(out)}], "ids": out})

    async def status(request):
        return web.json_response(await backend.status())

    async def health(request):
        r = backend.not_ready_reason()
        return web.json_response({"reason": r}, status=503 if r else 200)

    app = web.Application()
    app.add_routes([web.post("/v1/completions", complete), web.get("/admin/status", status), web.get("/health", health)])
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, settings.config.http.host, settings.config.http.port).start()
    up = ProcessUp(role=settings.name, ref=ref, pid=os.getpid())
    system.tell(settings.parent, up, lane=Lane.CONTROL)


def main() -> None:
    run_child(GatewaySettings, start)
