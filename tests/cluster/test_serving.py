import json
import re
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai

from tests.support.services import Client, service

PROMPTS = [
    f"{start} {what}"
    for start in ("The", "Return a", "This module provides", "If the")
    for what in ("list", "function", "string", "class", "value")
]


def events(lines: list[str]) -> list[Any]:
    return [json.loads(line[6:]) for line in lines if line.startswith("data: {")]


def greedy(client: Client) -> list[str]:
    def one(prompt: str) -> str:
        return str(client.complete(prompt, max_tokens=24)["choices"][0]["text"])

    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(one, PROMPTS))


def test_a_chat_streams_words_and_ends_with_a_reason_and_done(demo: Client) -> None:
    messages = [{"role": "user", "content": [{"type": "text", "text": "What is a list?"}]}]
    body = {"model": "demo", "messages": messages, "max_tokens": 60, "temperature": 0}
    lines = [line for line in demo.stream("/v1/chat/completions", body) if line]
    choices = [event["choices"][0] for event in events(lines)]
    text = "".join(choice["delta"].get("content") or "" for choice in choices)
    assert len(re.findall(r"[a-zA-Z]{2,}", text)) >= 8
    assert choices[-1]["finish_reason"] in ("stop", "length")
    assert lines[-1] == "data: [DONE]"


def test_streamed_and_whole_answers_are_the_same(demo: Client) -> None:
    body = {"model": "demo", "prompt": "The list", "max_tokens": 32, "temperature": 0}
    streamed = events(list(demo.stream("/v1/completions", body)))
    text = "".join(event["choices"][0]["text"] for event in streamed)
    assert text == demo.complete("The list", max_tokens=32)["choices"][0]["text"]


def test_the_same_seed_gives_the_same_text_alone_and_in_a_crowd(demo: Client) -> None:
    def sampled(seed: int) -> str:
        answer = demo.complete("The file", max_tokens=32, temperature=0.8, seed=seed)
        return str(answer["choices"][0]["text"])

    alone = [sampled(seed) for seed in range(4)]
    with ThreadPoolExecutor(8) as pool:
        crowd = list(pool.map(sampled, [0, 1, 2, 3, 0, 1, 2, 3]))
    assert crowd == alone + alone
    assert len(set(alone)) > 1


def test_status_shows_every_stage_with_its_layers(demo: Client) -> None:
    code, status = demo.get("/admin/status")
    assert code == 200
    stages = status["pipelines"][0]["stages"]
    assert [stage["stage"] for stage in stages] == [0, 1]
    assert stages[0]["layers"][0] == 0
    assert stages[0]["layers"][1] == stages[1]["layers"][0]
    assert stages[1]["layers"][1] == 12
    assert all(stage["pid"] > 0 and stage["kv_blocks"] > 0 for stage in stages)
    assert len({stage["kv_blocks"] for stage in stages}) == 1
    assert status["requests"] == {"running": 0, "waiting": 0}


def test_a_prompt_that_begins_as_one_before_is_answered_alike_and_found(demo: Client) -> None:
    talk = "What does a list do? A list is a mutable sequence of items. " * 5
    before = demo.get("/admin/status")[1]["prefix"]
    first = demo.complete(talk + "What is a set?", max_tokens=16)
    answers = [demo.complete(talk + "What is a set?", max_tokens=16) for _ in range(2)]
    for answer in answers:
        found = answer["usage"]["prompt_tokens_details"]["cached_tokens"]
        assert answer["usage"]["prompt_tokens"] - 16 <= found < answer["usage"]["prompt_tokens"]
        assert answer["choices"][0]["text"] == first["choices"][0]["text"]
    after = demo.get("/admin/status")[1]["prefix"]
    num_tokens = sum(answer["usage"]["prompt_tokens"] for answer in (first, *answers))
    assert after["queries"] - before["queries"] == num_tokens
    assert after["hits"] > before["hits"]


def test_the_official_client_passes_streaming_and_not(demo: Client) -> None:
    with openai.OpenAI(base_url=demo.url + "/v1", api_key="none", max_retries=0) as client:
        assert [model.id for model in client.models.list()] == ["demo"]
        whole = client.chat.completions.create(
            model="demo", messages=[{"role": "user", "content": "Hello"}], max_tokens=8
        )
        assert whole.choices[0].message.content
        assert whole.usage is not None
        assert whole.usage.completion_tokens <= 8
        chunks = list(
            client.completions.create(model="demo", prompt="The", max_tokens=8, stream=True)
        )
        assert chunks[-1].choices[0].finish_reason is not None


def test_every_split_gives_the_same_greedy_text(demo: Client) -> None:
    expected = greedy(demo)
    for arguments in (["--stages", "1"], ["--stages", "4"], ["--layers", "0:1,1:9,9:12"]):
        with service("--model", "demo", *arguments) as (client, _):
            assert greedy(client) == expected
