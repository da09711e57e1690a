"""From a request's JSON to what is to be done: read by the tables, tokenized, and bounded.

All that a client can get wrong is refused here, before anything is asked of the backend.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from runtime.gateway.agreement import check_agreement, check_number
from runtime.gateway.bounds import Bounds
from runtime.gateway.choice import Choice, Wishes
from runtime.gateway.delivery import Job
from runtime.gateway.endpoints import CHAT, COMPLETIONS, DETOKENIZE, TOKENIZE
from runtime.gateway.errors import ApiError
from runtime.gateway.generation import (
    Asked,
    ModelFacts,
    asked_of,
    generation_request,
    shows_logprobs,
)
from runtime.gateway.parameters import Endpoint
from runtime.gateway.prompts import (
    Message,
    Prompt,
    read_messages,
    read_prompts,
    read_token_ids,
    read_variables,
)
from runtime.gateway.shapes import Answer, ChatShape, CompletionShape, Shape
from runtime.gateway.structured import read_grammar
from runtime.gateway.tokenizing import TokenIds, Tokenizer, Tokenizing
from runtime.gateway.tools import (
    ToolUse,
    check_unmixed,
    find_style,
    knows_tools,
    read_tools,
    tools_message,
)

COMPLETION_MAX_TOKENS = 16
"""What OpenAI generates where a completion does not say."""


_OF_PROMPT = ("add_special_tokens",)
_OF_MESSAGES = ("tools", "chat_template_kwargs", "add_generation_prompt")


class GrammarCheck(Protocol):
    """Says whether a grammar can be used; in the tokenizing thread."""

    def refusal(self, grammar: str) -> str | None:
        """Why not, or None."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """A checked request, whose answer has no name yet."""

    shape: Shape
    prompts: Sequence[TokenIds]
    echoes: Sequence[str | None]
    asked: Asked
    wishes: Wishes
    model: ModelFacts
    tokenizer: Tokenizer

    def job(self, answer: Answer) -> Job:
        """What is to be done for it.

        Raises:
            ApiError: 400, where prompt and answer do not fit the context.
        """
        parameters = self.asked.parameters
        num_shown = parameters.get("n", 1)
        num_made = parameters.get("best_of", num_shown)
        options = parameters.get("stream_options", {})
        return Job(
            answer=answer,
            shape=self.shape,
            choices=[
                self._choice(f"{answer.id}-{place * num_made + number}", place, number)
                for place in range(len(self.prompts))
                for number in range(num_made)
            ],
            num_shown=num_shown,
            streams=parameters.get("stream", False),
            shows_usage=options.get("include_usage", False),
            shows_usage_always=options.get("continuous_usage_stats", False),
            shows_prompt_logprobs="prompt_logprobs" in parameters,
        )

    def _choice(self, request_id: str, place: int, number: int) -> Choice:
        prompt, wishes = self.prompts[place], replace(self.wishes, echo=self.echoes[place])
        request = generation_request(prompt, self.asked, self.model, request_id, number)
        return Choice(request, self.tokenizer, wishes, place)


class Reading:
    """Reads the requests of one service."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        tokenizing: Tokenizing,
        model: ModelFacts,
        grammars: GrammarCheck,
        rng: random.Random,
        bounds: Bounds,
    ) -> None:
        self._bounds = bounds
        self._tokenizer, self._tokenizing = tokenizer, tokenizing
        self._vocab_size = tokenizer.vocab_size  # a walk over the vocabulary, hence once
        self._template = tokenizer.template_source
        self._model, self._grammars, self._rng = model, grammars, rng

    async def completion(self, body: Mapping[str, Any]) -> Order:
        """What a body of `/v1/completions` asks for; raises `ApiError`."""
        parameters = self._read(COMPLETIONS, body)
        check_agreement(parameters)
        prompts = read_prompts(_required(parameters, "prompt"), self._vocab_size)
        check_number(len(prompts), parameters)
        _, grammar = await self._checked(*read_grammar(parameters))
        token_ids = await self._tokenizing.prompts(
            prompts, add_special_tokens=parameters.get("add_special_tokens", True)
        )
        shape = CompletionShape(
            self._tokenizer.token_bytes, shows_logprobs=shows_logprobs(parameters)
        )
        echoes = [self._echo(prompt) if parameters.get("echo") else None for prompt in prompts]
        return self._order(shape, parameters, token_ids, echoes, grammar, COMPLETION_MAX_TOKENS)

    async def chat(self, body: Mapping[str, Any]) -> Order:
        """What a body of `/v1/chat/completions` asks for; raises `ApiError`."""
        parameters = self._read(CHAT, body)
        check_agreement(parameters)
        messages = read_messages(_required(parameters, "messages"))
        check_number(1, parameters)
        use = read_tools(parameters, find_style(self._template))
        name, grammar = read_grammar(parameters)
        check_unmixed(use, name)
        name = name or ("tools" if use.grammar else "")
        _, grammar = await self._checked(name, grammar or use.grammar)
        token_ids = await self._chat_tokens(messages, use, parameters)
        shape = ChatShape(self._tokenizer.token_bytes, shows_logprobs=shows_logprobs(parameters))
        return self._order(shape, parameters, [token_ids], [None], grammar, None, use)

    async def _chat_tokens(
        self, messages: list[Message], use: ToolUse, parameters: Mapping[str, Any]
    ) -> TokenIds:
        variables = dict(read_variables(parameters.get("chat_template_kwargs", {})))
        for name in ("add_generation_prompt", "continue_final_message"):
            if name in parameters:
                variables[name] = parameters[name]
        if use.shown and knows_tools(self._template):
            variables["tools"] = list(use.shown)
        elif use.shown:
            messages = _told(messages, tools_message(use.shown))
        return await self._tokenizing.chat(messages, variables)

    async def _checked(self, name: str, grammar: str) -> tuple[str, str]:
        if grammar:
            reason = await self._tokenizing.check(lambda: self._grammars.refusal(grammar))
            if reason is not None:
                message = f"{name}: no grammar can be made of it: {reason}"
                raise ApiError(400, message, param=name)
        return name, grammar

    def _order(
        self,
        shape: Shape,
        parameters: Mapping[str, Any],
        prompts: Sequence[TokenIds],
        echoes: Sequence[str | None],
        grammar: str,
        default_max_tokens: int | None,
        use: ToolUse = ToolUse(),  # noqa: B008 - frozen
    ) -> Order:
        for prompt in prompts:
            self._bounds.check_prompt(len(prompt), shape.prompt_param)
        asked = asked_of(
            parameters,
            prompt_param=shape.prompt_param,
            default_max_tokens=default_max_tokens,
            grammar=grammar,
            vocab_size=self._vocab_size,
            rng=self._rng,
        )
        wishes = Wishes(
            stops=parameters.get("stop", ()),
            shows_stop=parameters.get("include_stop_str_in_output", False),
            skips_special=parameters.get("skip_special_tokens", not use.in_own_words),
            shows_logprobs=shows_logprobs(parameters),
            draws=parameters.get("max_tokens") != 0,
            reader=use.reader,
            is_single=use.is_single,
        )
        return Order(
            shape=shape,
            prompts=prompts,
            echoes=echoes,
            asked=asked,
            wishes=wishes,
            model=self._model,
            tokenizer=self._tokenizer,
        )

    def _echo(self, prompt: Prompt) -> str:
        return prompt if isinstance(prompt, str) else self._tokenizer.decode(prompt)

    def _read(self, endpoint: Endpoint, body: Mapping[str, Any]) -> dict[str, Any]:
        parameters = endpoint.read(body)
        self._model.check_name(_required(parameters, "model"))
        return parameters

    # --- tokens by themselves

    async def tokenize(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """The answer to a body of `/tokenize`; raises `ApiError`."""
        parameters = self._read_optional_model(TOKENIZE, body)
        if ("prompt" in parameters) == ("messages" in parameters):
            raise ApiError(
                400, "prompt: expected a prompt or messages, and one of them", param="prompt"
            )
        of_other = _OF_PROMPT if "messages" in parameters else _OF_MESSAGES
        for name in of_other:
            if name in parameters:
                other = "a prompt" if "messages" in parameters else "messages"
                raise ApiError(400, f"{name}: only with {other}", param=name)
        if "messages" in parameters:
            use = read_tools(parameters, find_style(self._template))
            messages = read_messages(parameters["messages"])
            token_ids = await self._chat_tokens(messages, use, parameters)
        else:
            prompts = read_prompts(parameters["prompt"], self._vocab_size)
            (token_ids,) = await self._tokenizing.prompts(
                prompts, add_special_tokens=parameters.get("add_special_tokens", True)
            )
        shows_texts = parameters.get("return_token_strs", False)
        texts = [self._tokenizer.token_bytes(i).decode(errors="replace") for i in token_ids]
        return {
            "count": len(token_ids),
            "max_model_len": self._model.max_len,
            "tokens": list(token_ids),
            "token_strs": texts if shows_texts else None,
        }

    async def detokenize(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """The answer to a body of `/detokenize`; raises `ApiError`."""
        parameters = self._read_optional_model(DETOKENIZE, body)
        token_ids = read_token_ids("tokens", _required(parameters, "tokens"), self._vocab_size)
        return {"prompt": await self._tokenizing.text(token_ids)}

    def tokenizer_info(self) -> dict[str, Any]:
        """What clients may know of the tokenizer."""
        return {
            "model": self._model.name,
            "vocab_size": self._vocab_size,
            "max_model_len": self._model.max_len,
            "eos_token_ids": list(self._model.eos_token_ids),
            "chat_template": self._template or None,
            "tool_call_format": find_style(self._template),
        }

    def _read_optional_model(self, endpoint: Endpoint, body: Mapping[str, Any]) -> dict[str, Any]:
        parameters = endpoint.read(body)
        self._model.check_name(parameters.get("model", self._model.name))
        return parameters


def _required(parameters: Mapping[str, Any], name: str) -> Any:
    if name not in parameters:
        raise ApiError(400, f"{name}: this parameter is required", param=name)
    return parameters[name]


def _told(messages: list[Message], text: str) -> list[Message]:
    """The messages, with something more for the system to say."""
    if messages[0]["role"] == "system":
        first = {**messages[0], "content": f"{messages[0]['content']}\n\n{text}"}
        return [first, *messages[1:]]
    return [{"role": "system", "content": text}, *messages]
