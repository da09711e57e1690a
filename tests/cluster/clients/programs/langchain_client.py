"""LangChain's ChatOpenAI against a service: prints what it understood as one line of JSON."""

import asyncio
import json
import sys
from typing import Any, Literal

from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel, Field


class Animal(BaseModel):
    """An animal."""

    kind: Literal["horse", "mule"]
    legs: int = Field(ge=1, le=4)


@tool  # type: ignore[untyped-decorator]
def measure(size: Literal["small", "large"]) -> str:
    """Measure something."""
    return size


async def in_turn(chat: ChatOpenAI) -> list[str]:
    return [str(answer.content) for answer in await chat.abatch(["Hi", "The list"])]


def main(url: str) -> dict[str, Any]:
    chat = ChatOpenAI(
        base_url=f"{url}/v1",
        api_key="none",
        model="demo",
        max_tokens=24,
        temperature=0,
        max_retries=0,
    )
    whole = chat.invoke("What is a list?")
    streamed = list(chat.stream("What is a list?", stream_usage=True))
    roomy = chat.model_copy(update={"max_tokens": 300})
    must_call = roomy.bind_tools(
        [measure], tool_choice="any", parallel_tool_calls=False, strict=True
    )
    calls = must_call.invoke("Measure it").tool_calls
    may_call = chat.bind_tools([measure]).invoke("Measure it")
    strictly = chat.bind_tools([measure], strict=True).invoke("Measure it")
    found = roomy.with_structured_output(Animal).invoke("An animal")
    by_call = roomy.with_structured_output(Animal, method="function_calling").invoke("An animal")
    return {
        "whole": whole.content,
        "usage": whole.usage_metadata["output_tokens"],
        "reason": whole.response_metadata["finish_reason"],
        "streamed": "".join(str(chunk.content) for chunk in streamed),
        "streamed_usage": sum(
            c.usage_metadata["output_tokens"] for c in streamed if c.usage_metadata
        ),
        "calls": calls,
        "may_call": may_call.response_metadata["finish_reason"],
        "strictly": strictly.response_metadata["finish_reason"],
        "structured": found.model_dump(),
        "structured_by_call": by_call.model_dump(),
        "batch": asyncio.run(in_turn(chat)),
    }


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(sys.argv[1])) + "\n")
