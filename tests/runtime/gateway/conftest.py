import logging
from collections.abc import AsyncIterator, Iterator

import pytest

from tests.runtime.gateway.scripted import Client, ScriptedBackend, gateway


@pytest.fixture(autouse=True)
def _nothing_is_left_to_the_server_or_the_loop(
    caplog: pytest.LogCaptureFixture,
) -> Iterator[None]:
    """What gets past the gateway's own handler is logged there, and is a bug of ours."""
    yield
    found = [r for r in caplog.get_records("call") if r.name in ("aiohttp.server", "asyncio")]
    assert [r.getMessage() for r in found if r.levelno >= logging.ERROR] == []


@pytest.fixture
def backend() -> ScriptedBackend:
    """A backend that a test may give its own script before it sends a request."""
    return ScriptedBackend()


@pytest.fixture
async def client(backend: ScriptedBackend) -> AsyncIterator[Client]:
    async with gateway(backend) as client:
        yield client
