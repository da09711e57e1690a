"""Schemas of what the service answers: closed, so that a field nobody described is found.

They are written by hand beside the shapes; tests hold real answers against them.
"""

from typing import Any

from runtime.gateway.input_schemas import Schema, closed, nullable

_STRING: Schema = {"type": "string"}
_COUNT: Schema = {"type": "integer", "minimum": 0}
_NUMBER: Schema = {"type": "number"}
_BOOLEAN: Schema = {"type": "boolean"}
_NULL: Schema = {"type": "null"}
_ANY_OBJECT: Schema = {"type": "object"}


def ref(name: str) -> Schema:
    """A schema of the document's components."""
    return {"$ref": f"#/components/schemas/{name}"}


def _list(items: Schema) -> Schema:
    return {"type": "array", "items": items}


def _all(properties: dict[str, Schema], *optional: str) -> Schema:
    """An object in which everything is there, but for what is named."""
    return closed(properties, *(name for name in properties if name not in optional))


def _answer(kind: str, choice: Schema, usage: Schema, *optional: str, **more: Schema) -> Schema:
    properties = {
        "id": _STRING,
        "object": {"const": kind},
        "created": _COUNT,
        "model": _STRING,
        "choices": _list(choice),
        "usage": usage,
        **more,
    }
    return _all(properties, *optional, *more)


_USAGE = _all(
    {
        "prompt_tokens": _COUNT,
        "completion_tokens": _COUNT,
        "total_tokens": _COUNT,
        "recoveries": _COUNT
        | {"description": "how often the answer went on after a loss; absent where it never did"},
        "prompt_tokens_details": _all({"cached_tokens": _COUNT})
        | {"description": "prompt tokens whose KV entries were there already; absent without any"},
    },
    "recoveries",
    "prompt_tokens_details",
)
_PROMPT_LOGPROBS: Schema = _list(
    nullable(
        {
            "type": "object",
            "additionalProperties": _all(
                {"logprob": _NUMBER, "rank": _COUNT, "decoded_token": _STRING}
            ),
        }
    )
)

# --- completions

_COMPLETION_LOGPROBS = _all(
    {
        "tokens": _list(_STRING),
        "token_logprobs": _list(nullable(_NUMBER)),
        "top_logprobs": _list(nullable({"type": "object", "additionalProperties": _NUMBER})),
        "text_offset": _list(_COUNT),
    }
)
_ENDINGS: Schema = {"enum": ["stop", "length"]}


def _completion_choice(reason: Schema, **more: Schema) -> Schema:
    logprobs = nullable(ref("CompletionLogprobs"))
    said = {"index": _COUNT, "text": _STRING, "logprobs": logprobs, "finish_reason": reason}
    return _all(said | more, *more)


# --- chats

_LIKELY = _all({"token": _STRING, "logprob": _NUMBER, "bytes": _list(_COUNT)})
_SCORED = _all({**_LIKELY["properties"], "top_logprobs": _list(_LIKELY)})
_CHAT_LOGPROBS = _all({"content": _list(_SCORED), "refusal": _NULL})
_CALLED = _all({"name": _STRING, "arguments": _STRING})
_TOOL_CALL = _all({"id": _STRING, "type": {"const": "function"}, "function": _CALLED})
_MESSAGE = _all(
    {
        "role": {"const": "assistant"},
        "content": nullable(_STRING),
        "refusal": _NULL,
        "tool_calls": _list(ref("ToolCall")),
    },
    "tool_calls",
)
_CALL_DELTA = _all(
    {
        "index": _COUNT,
        "id": _STRING,
        "type": {"const": "function"},
        "function": _all({"name": _STRING, "arguments": _STRING}, "name"),
    },
    *("id", "type"),
)
_DELTA = _all(
    {
        "role": {"const": "assistant"},
        "content": _STRING,
        "tool_calls": _list(_CALL_DELTA),
    },
    *("role", "content", "tool_calls"),
)
_CHAT_ENDINGS: Schema = {"enum": ["stop", "length", "tool_calls"]}


def _chat_choice(said: dict[str, Schema], reason: Schema) -> Schema:
    logprobs = nullable(ref("ChatLogprobs"))
    return _all({"index": _COUNT, **said, "logprobs": logprobs, "finish_reason": reason})


# --- the rest

_MODEL = _all(
    {
        "id": _STRING,
        "object": {"const": "model"},
        "created": _COUNT,
        "owned_by": _STRING,
        "max_model_len": _COUNT,
    }
)
_ERROR = _all(
    {
        "error": _all(
            {
                "message": _STRING,
                "type": {
                    "enum": [
                        *("invalid_request_error", "authentication_error", "permission_error"),
                        *("rate_limit_error", "server_error"),
                    ]
                },
                "param": nullable(_STRING),
                "code": nullable(_STRING),
            }
        )
    }
)
_REPORT = _all(
    {
        "done": _BOOLEAN,
        "reason": _STRING,
        "epoch": _COUNT,
        "phases": _list(_all({"name": _STRING, "seconds": _NUMBER, "bytes": _COUNT})),
        "moves": _list(_STRING),
    }
)
_HEALTH = _all(
    {"status": {"enum": ["ready", "not ready"]}, "reason": _STRING},
    "reason",
)
_REQUEST = _all(
    {
        "id": _STRING,
        "pipeline": nullable(_STRING),
        "prompt_tokens": _COUNT,
        "delivered_tokens": _COUNT,
        "recoveries": _COUNT,
    }
)
_EVENT = _all({"id": _COUNT, "at": _NUMBER, "kind": _STRING, "facts": _ANY_OBJECT})

SCHEMAS: dict[str, Any] = {
    "Usage": _USAGE,
    "PromptLogprobs": _PROMPT_LOGPROBS,
    "CompletionLogprobs": _COMPLETION_LOGPROBS,
    "Completion": _answer(
        "text_completion",
        _completion_choice(_ENDINGS, prompt_logprobs=ref("PromptLogprobs")),
        ref("Usage"),
    ),
    "CompletionChunk": _answer(
        "text_completion", _completion_choice(nullable(_ENDINGS)), nullable(ref("Usage")), "usage"
    ),
    "ChatLogprobs": _CHAT_LOGPROBS,
    "ToolCall": _TOOL_CALL,
    "ChatCompletion": _answer(
        "chat.completion",
        _chat_choice({"message": _MESSAGE}, _CHAT_ENDINGS),
        ref("Usage"),
        prompt_logprobs=ref("PromptLogprobs"),
    ),
    "ChatCompletionChunk": _answer(
        "chat.completion.chunk",
        _chat_choice({"delta": _DELTA}, nullable(_CHAT_ENDINGS)),
        nullable(ref("Usage")),
        "usage",
    ),
    "Model": _MODEL,
    "Models": _all({"object": {"const": "list"}, "data": _list(ref("Model"))}),
    "Tokens": _all(
        {
            "count": _COUNT,
            "max_model_len": _COUNT,
            "tokens": _list(_COUNT),
            "token_strs": nullable(_list(_STRING)),
        }
    ),
    "Text": _all({"prompt": _STRING}),
    "TokenizerInfo": _all(
        {
            "model": _STRING,
            "vocab_size": _COUNT,
            "max_model_len": _COUNT,
            "eos_token_ids": _list(_COUNT),
            "chat_template": nullable(_STRING),
            "tool_call_format": _STRING,
        }
    ),
    "Health": _HEALTH,
    "Version": _all({"version": _STRING}),
    "Error": _ERROR,
    "ChangeReport": _REPORT,
    "Done": _all({"done": {"const": True}}),
    "Targets": _all({"targets": _list(_STRING)}),
    "Requests": _all({"requests": _list(_REQUEST)}),
    "Events": _all({"events": _list(_EVENT), "missed": _COUNT, "last_id": _COUNT}),
    "Status": {"type": "object", "properties": {"epoch": _COUNT}, "required": ["epoch"]},
    "Plan": _ANY_OBJECT,
    "Steps": _ANY_OBJECT,
    "Document": {
        "type": "object",
        "properties": {"openapi": {"const": "3.1.0"}},
        "required": ["openapi", "info", "paths"],
    },
}
"""Every answer, by the name it has in the document."""
