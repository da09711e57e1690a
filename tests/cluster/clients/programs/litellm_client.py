"""LiteLLM against a service: prints what it understood as one line of JSON."""

import json
import os
import sys
from typing import Any

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # no look at the network
import litellm

litellm.telemetry = False
SCHEMA = {
    "type": "object",
    "properties": {"size": {"type": "integer", "minimum": 1, "maximum": 99}},
    "required": ["size"],
    "additionalProperties": False,
}
TOOL = {"type": "function", "function": {"name": "measure", "parameters": SCHEMA}}
QUESTION = [{"role": "user", "content": "What is a list?"}]


def main(url: str) -> dict[str, Any]:
    common: dict[str, Any] = {
        "model": "openai/demo",
        "api_base": f"{url}/v1",
        "api_key": "none",
        "max_tokens": 24,
        "num_retries": 0,
    }
    more = common | {"max_tokens": 200}
    whole = litellm.completion(messages=QUESTION, temperature=0, **common)
    streamed = litellm.completion(
        messages=QUESTION,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
        **common,
    )
    chunks = list(streamed)
    called = litellm.completion(
        messages=QUESTION, tools=[TOOL], tool_choice="required", parallel_tool_calls=False, **more
    )
    shaped = litellm.completion(
        messages=QUESTION,
        response_format={
            "type": "json_schema",
            "json_schema": {"name": "answer", "schema": SCHEMA, "strict": True},
        },
        **more,
    )
    text = litellm.text_completion(
        model="text-completion-openai/demo",
        prompt="The list",
        api_base=common["api_base"],
        api_key="none",
        max_tokens=8,
    )
    try:
        litellm.completion(messages=QUESTION, n=0, **common)
        refused = ""
    except litellm.BadRequestError as error:
        refused = str(error)
    return {
        "whole": whole.choices[0].message.content,
        "usage": whole.usage.completion_tokens,
        "streamed": "".join(c.choices[0].delta.content or "" for c in chunks if c.choices),
        "reason": next(
            (r for c in chunks if c.choices and (r := c.choices[0].finish_reason)), None
        ),
        "call": called.choices[0].message.tool_calls[0].function.name,
        "arguments": called.choices[0].message.tool_calls[0].function.arguments,
        "shaped": shaped.choices[0].message.content,
        "text": text.choices[0].text,
        "refused": refused,
    }


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(sys.argv[1])) + "\n")
