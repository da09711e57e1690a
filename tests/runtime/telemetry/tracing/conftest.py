import pytest

from tests.runtime.gateway.scripted import ScriptedBackend


@pytest.fixture
def backend() -> ScriptedBackend:
    return ScriptedBackend()
