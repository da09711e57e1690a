"""The official client for Node."""

import json

import pytest

from tests.cluster.clients.outside import run_node
from tests.support.services import Client


@pytest.mark.timeout(200)
def test_the_official_client_for_node_understands_every_answer(demo: Client) -> None:
    found = run_node("node_client.mjs", demo.url)
    assert found["whole"]
    assert found["streamed"] == found["gathered"] == found["whole"]
    assert 0 < found["usage"] <= 24
    assert found["call"]["name"] == "measure"
    for text in (found["call"]["arguments"], found["parsed"]):
        assert 1 <= json.loads(text)["size"] <= 99
    assert found["texts"] == [0, 1]
    assert found["models"] == ["demo"]
    assert found["refused"] == {"kind": "BadRequestError", "status": 400, "param": "n"}
    assert found["limit"] is not None


def test_what_it_left_before_the_end_holds_nothing(demo: Client) -> None:
    demo.wait_until(lambda: demo.get("/admin/requests")[1] == {"requests": []})
    kv = demo.get("/admin/status")[1]["kv"]
    assert kv["free_blocks"] == kv["blocks"]
