"""LiteLLM, in front of a service as it stands in front of others."""

import json

import pytest

from tests.cluster.clients.outside import run_python
from tests.support.services import Client


@pytest.mark.timeout(200)
def test_litellm_understands_every_answer(demo: Client) -> None:
    found = run_python("litellm", "litellm_client.py", demo.url)
    assert found["whole"]
    assert found["streamed"] == found["whole"]
    assert found["reason"] in ("stop", "length")
    assert 0 < found["usage"] <= 24
    assert found["call"] == "measure"
    for text in (found["arguments"], found["shaped"]):
        assert 1 <= json.loads(text)["size"] <= 99
    assert found["text"]
    assert "n: expected a whole number from 1 to 128" in found["refused"]
