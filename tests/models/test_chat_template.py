from typing import Any

import pytest

import models.chat_template
from models.chat_template import ChatTemplate
from models.errors import BadTemplate

MESSAGES = [{"role": "user", "content": "<hello>"}]


def _render(source: str, **variables: Any) -> str:
    return ChatTemplate(source, {"bos_token": "<s>"}).render(MESSAGES, **variables)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("{{ bos_token }}{{ messages[0].content }}", "<s><hello>"),
        ("{{ messages[0] | tojson }}", '{"role": "user", "content": "<hello>"}'),
        ("{{ {'é': 1} | tojson(indent=1) }}", '{\n "é": 1\n}'),
        ("{% if add_generation_prompt %}go{% endif %}", "go"),
        ("{% for m in messages %}{% break %}{% endfor %}x", "x"),
        ("  {% if true %}\nx\n{% endif %}\n", "x\n"),
        ("{{ strftime_now('%Y') | length }}", "4"),
        ("{{ extra }}", "7"),
        ("{% generation %}{{ extra }}{% endgeneration %}!", "7!"),
        ("{{ tools is none and documents is none }}", "True"),
    ],
)
def test_templates_may_use_what_transformers_offers(source: str, expected: str) -> None:
    assert _render(source, extra=7) == expected


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
        ("{{ messages.append(1) }}", "not callable|unsafe|append"),
        ("{{ messages[0].content + 1 }}", "refuses"),
        ("{{ 1 // 0 }}", "refuses"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "refuses"),
        ("{{ range(10 ** 9) | list }}", "refuses"),
    ],
)
def test_a_template_that_refuses_or_misbehaves_is_an_error(source: str, text: str) -> None:
    with pytest.raises(BadTemplate, match=text):
        _render(source)


def test_a_template_that_is_none_is_refused_at_once() -> None:
    with pytest.raises(BadTemplate, match="cannot be compiled"):
        ChatTemplate("{% for %}", {})


def test_a_template_cannot_write_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models.chat_template, "MAX_CHARACTERS", 1000)
    with pytest.raises(BadTemplate, match="over 1000 characters"):
        _render("{% for i in range(99999) %}x{% endfor %}")
