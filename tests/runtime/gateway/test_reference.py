"""docs/openai.md is what the tables say, and every test that it names is there."""

import re
from pathlib import Path

import pytest

from runtime.gateway import reference
from runtime.gateway.endpoints import CHAT, COMPLETIONS, ENDPOINTS

HERE = Path(__file__).parent
PAGE = HERE.parents[2] / "docs" / "openai.md"

# OpenAI's request schemas, by name.
OPENAI_COMPLETIONS = """model prompt best_of echo frequency_penalty logit_bias logprobs max_tokens n
presence_penalty seed stop stream stream_options suffix temperature top_p user"""
OPENAI_CHAT = """messages model audio frequency_penalty function_call functions logit_bias logprobs
max_completion_tokens max_tokens metadata modalities moderation n parallel_tool_calls prediction
presence_penalty prompt_cache_key prompt_cache_options prompt_cache_retention reasoning_effort
response_format safety_identifier seed service_tier stop store stream stream_options temperature
tool_choice tools top_logprobs top_p user verbosity web_search_options"""


def test_the_page_is_current() -> None:
    assert PAGE.read_text(encoding="utf-8") == reference.text()


def test_the_page_is_written_where_it_is_asked_for(tmp_path: Path) -> None:
    reference.main([str(tmp_path / "page.md")])
    assert (tmp_path / "page.md").read_text(encoding="utf-8") == reference.text()


def test_every_parameter_of_openais_schemas_is_in_a_table() -> None:
    assert set(OPENAI_COMPLETIONS.split()) <= COMPLETIONS.parameters.keys()
    assert set(OPENAI_CHAT.split()) <= CHAT.parameters.keys()


NAMED = sorted({p.shown_by for e in ENDPOINTS for p in e.parameters.values()})


@pytest.mark.parametrize("named", NAMED)
def test_a_test_that_is_named_is_there(named: str) -> None:
    file, name = named.split("::")
    source = (HERE / file).read_text(encoding="utf-8")
    assert re.search(rf"^(async )?def {name}\(", source, re.MULTILINE)
