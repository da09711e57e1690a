"""LangChain's chat model over a service."""

import pytest

from tests.cluster.clients.outside import run_python
from tests.support.services import Client


@pytest.mark.timeout(200)
def test_langchain_understands_every_answer(demo: Client) -> None:
    found = run_python("langchain_openai", "langchain_client.py", demo.url)
    assert found["whole"]
    assert found["streamed"] == found["whole"]
    assert found["reason"] in ("stop", "length")
    assert 0 < found["usage"] == found["streamed_usage"] <= 24
    assert [call["name"] for call in found["calls"]]
    assert {call["args"]["size"] for call in found["calls"]} <= {"small", "large"}
    assert found["may_call"] in ("stop", "length", "tool_calls")
    assert found["strictly"] in ("stop", "length", "tool_calls")
    for animal in (found["structured"], found["structured_by_call"]):
        assert animal["kind"] in ("horse", "mule")
        assert 1 <= animal["legs"] <= 4
    assert len(found["batch"]) == 2
