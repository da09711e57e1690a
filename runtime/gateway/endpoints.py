"""The tables: every parameter of OpenAI's schema, what becomes of it, and the test that shows it.

Beside OpenAI's there are those of vLLM that evaluation and benchmark tools send. This is data only:
`parameters` reads requests by it, `reference` writes `docs/openai.md` from it.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from runtime.gateway import input_schemas as schemas
from runtime.gateway.keys import MAX_PRIORITY
from runtime.gateway.parameters import Endpoint, Parameter
from runtime.gateway.targets import are_targets
from runtime.gateway.values import (
    Reader,
    anything,
    boolean,
    integer,
    logit_bias,
    number,
    some_object,
    stops,
    stream_options,
    string,
    token_ids,
    top_k,
)

MAX_INT = (1 << 63) - 1
MAX_NEW_TOKENS = 1 << 24
MAX_CHOICES = 128
MAX_LOGPROBS = 20

# What is in them is read where it is understood, which can say which part of it is wrong.
_PROMPT = replace(
    anything, expected="a string, token ids, or a list of either", schema=schemas.PROMPT
)
_MESSAGES = replace(anything, expected="a list of messages", schema=schemas.MESSAGES)
_TOOLS = replace(anything, expected="a list of functions", schema=schemas.TOOLS)
_TOOL_CHOICE = replace(
    anything,
    expected='"none", "auto", "required" or a function of the tools',
    schema=schemas.TOOL_CHOICE,
)
_TOKENS = replace(anything, expected="a list of token ids", schema=schemas.TOKENS)
_SEED = replace(integer(-MAX_INT - 1, MAX_INT), expected="a whole number of 64 bits, signed")
_TARGETS = Reader(
    "`ttft` and `tpot` in seconds, `refuse` as a boolean", are_targets, schema=schemas.TARGETS
)
_PENALTY = number(-2, 2)


def _honoured(reader: Reader, does: str, shown_by: str) -> Parameter:
    return Parameter(does=does, shown_by=shown_by, reader=reader)


def _off(values: tuple[Any, ...], does: str) -> Parameter:
    test = "test_parameters.py::test_what_is_not_supported_is_taken_only_where_it_asks_for_nothing"
    return Parameter(does=does, shown_by=test, off=values)


def _refused(does: str) -> Parameter:
    test = "test_parameters.py::test_what_is_known_and_never_supported_is_refused_by_name"
    return Parameter(does=does, shown_by=test)


def _label(does: str) -> Parameter:
    test = "test_parameters.py::test_labels_and_nulls_are_taken_and_change_nothing"
    return Parameter(does=does, shown_by=test, is_label=True)


_REACHES = "test_answers.py::test_what_is_asked_for_reaches_the_backend"
_SHAPED = "test_shaped_requests.py::test_what_shapes_the_drawing_reaches_the_backend"
_STRUCTURED = "test_structured.py::test_every_form_of_a_structured_answer_is_one_grammar"
_RETURNS = "test_demo_service.py::"

_MODEL = _honoured(
    string, "must be the served model", "test_refusals.py::test_another_model_is_not_found"
)

SAMPLING: Mapping[str, Parameter] = {
    "model": _MODEL,
    "temperature": _honoured(number(0, 2), "divides the logits; 0 is greedy", _REACHES),
    "top_p": _honoured(number(0, 1, open_low=True), "keeps the likeliest of this mass", _REACHES),
    "top_k": _honoured(top_k, "keeps so many candidates", _REACHES),
    "min_p": _honoured(number(0, 1), "keeps what is as likely, against the likeliest", _REACHES),
    "seed": _honoured(
        _SEED,
        "the same request with the same seed gives the same tokens; choice i has seed + i",
        "test_choices.py::test_each_choice_has_a_seed_of_its_own_and_the_first_has_the_requests",
    ),
    "n": _honoured(
        integer(1, MAX_CHOICES),
        "choices for each prompt",
        "test_choices.py::test_n_choices_for_each_prompt_come_in_order",
    ),
    "stop": _honoured(
        stops,
        "the text ends before the stop string that is complete first",
        "test_stops.py::test_a_stop_string_over_several_tokens_ends_the_answer_and_frees_the_sequence",
    ),
    "stop_token_ids": _honoured(
        token_ids,
        "tokens that end the answer, beside the model's own",
        "test_shaped_requests.py::test_stop_tokens_are_added_to_the_models_own",
    ),
    "include_stop_str_in_output": _honoured(
        boolean,
        "whether a stop string is shown",
        "test_stops.py::test_a_stop_string_is_shown_where_that_is_asked_for",
    ),
    "min_tokens": _honoured(
        integer(0, MAX_NEW_TOKENS),
        "no end or stop token is drawn before",
        "test_shaped_requests.py::test_no_stop_token_may_come_before_min_tokens",
    ),
    "ignore_eos": _honoured(boolean, "the model's end token does not end the answer", _REACHES),
    "presence_penalty": _honoured(_PENALTY, "off the logits of tokens in the answer", _SHAPED),
    "frequency_penalty": _honoured(_PENALTY, "the same, for each time", _SHAPED),
    "repetition_penalty": _honoured(
        number(0, 10, open_low=True), "divides, for tokens of prompt and answer", _SHAPED
    ),
    "logit_bias": _honoured(logit_bias, "is added to the logits of tokens", _SHAPED),
    "allowed_token_ids": _honoured(token_ids, "no other token is drawn", _SHAPED),
    "prompt_logprobs": _honoured(
        integer(0, MAX_LOGPROBS),
        "so many candidates for each token of the prompt; not in streams",
        "test_logprobs.py::test_prompt_logprobs_are_told_beside_either_answer",
    ),
    "response_format": _honoured(
        replace(some_object, schema=schemas.RESPONSE_FORMAT),
        'type "text", "json_object" or "json_schema"',
        _STRUCTURED,
    ),
    "structured_outputs": _honoured(
        replace(some_object, schema=schemas.STRUCTURED_OUTPUTS),
        "one of json, json_object, regex, choice and grammar",
        _STRUCTURED,
    ),
    "guided_json": _honoured(
        replace(anything, schema=schemas.JSON_SCHEMA),
        "a JSON schema that the answer follows",
        _STRUCTURED,
    ),
    "guided_regex": _honoured(
        replace(string, schema=schemas.PATTERN), "a pattern that the answer matches", _STRUCTURED
    ),
    "guided_choice": _honoured(
        replace(anything, schema=schemas.CHOICE), "texts of which the answer is one", _STRUCTURED
    ),
    "guided_grammar": _honoured(
        replace(string, schema=schemas.PATTERN), "a Lark grammar of the answer", _STRUCTURED
    ),
    "skip_special_tokens": _honoured(
        boolean,
        "whether special tokens are left out of the text; true unless said",
        "test_shaped_requests.py::test_special_tokens_are_shown_where_that_is_asked_for",
    ),
    "stream": _honoured(
        boolean,
        "the answer comes as events",
        "test_streaming.py::test_a_completion_stream_is_pieces_of_text_and_the_reason",
    ),
    "stream_options": _honoured(
        stream_options,
        "usage at the end, or with every event",
        "test_streaming.py::test_the_usage_comes_last_and_only_where_it_was_asked_for",
    ),
    "timeout": _honoured(
        replace(number(0, 86400, open_low=True), expected="seconds, up to `limits.max_queue_s`"),
        "so long the request may wait for its turn",
        "test_admission.py::test_over_http_a_queue_timeout_is_a_504",
    ),
    "priority": _honoured(
        integer(-MAX_PRIORITY, MAX_PRIORITY),
        "less goes first; a key may not ask for less than its own",
        "test_access.py::test_a_key_may_be_less_urgent_than_it_is_and_not_more",
    ),
    "slo": _honoured(
        _TARGETS,
        "how fast the answer is to be; with `refuse` a 429 at once where that is not to be had",
        "test_targets.py::test_over_http_a_target_that_cannot_be_met_is_a_429_that_names_it",
    ),
    "user": _label("for a provider's records"),
    "metadata": _label("for a provider's records"),
    "safety_identifier": _label("for a provider's records"),
}

_VLLM_ONLY: Mapping[str, Parameter] = {
    "bad_words": _refused("use logit_bias"),
    "cache_salt": _refused("no cache is shared between requests"),
    "guided_decoding_backend": _refused("there is one"),
    "kv_transfer_params": _refused("no client says where KV goes"),
    "length_penalty": _refused("there is no beam search"),
    "prompt_embeds": _refused("prompts are text or token ids"),
    "request_id": _refused("the service names its requests"),
    "return_token_ids": _refused("use logprobs, or /tokenize"),
    "return_tokens_as_token_ids": _refused("tokens are told as text"),
    "truncate_prompt_tokens": _refused("a prompt that does not fit is refused"),
    "use_beam_search": _refused("there is no beam search"),
}

COMPLETIONS = Endpoint(
    "/v1/completions",
    {
        **SAMPLING,
        "prompt": _honoured(
            _PROMPT,
            "what is continued; 128 of them at most",
            "test_answers.py::test_every_form_of_prompt_gives_one_choice_a_prompt_in_order",
        ),
        "max_tokens": _honoured(
            integer(0, MAX_NEW_TOKENS),
            "16 unless said; 0 draws nothing",
            "test_choices.py::test_no_token_at_all_may_be_asked_for",
        ),
        "best_of": _honoured(
            integer(1, 20),
            "so many are drawn, the n likeliest by token are shown; not in streams",
            "test_choices.py::test_the_likeliest_of_best_of_are_shown_the_best_first",
        ),
        "echo": _honoured(
            boolean,
            "the prompt stands before the answer, with logprobs as well",
            "test_logprobs.py::test_an_echo_with_logprobs_scores_the_prompt",
        ),
        "logprobs": _honoured(
            integer(0, MAX_LOGPROBS),
            "each token's own and so many candidates'",
            "test_logprobs.py::test_logprobs_of_a_completion_are_four_lists",
        ),
        "add_special_tokens": _honoured(
            boolean,
            "whether a prompt in text gets the tokens that open every prompt; true unless said",
            "test_shaped_requests.py::test_a_prompt_may_go_without_the_tokens_that_open_one",
        ),
        "suffix": _refused("the models served here do not fill in"),
        **_VLLM_ONLY,
    },
)

_TOOL_TEST = "test_tools.py::"

CHAT = Endpoint(
    "/v1/chat/completions",
    {
        **SAMPLING,
        "messages": _honoured(
            _MESSAGES,
            "the chat, rendered by the model's template",
            "test_answers.py::test_a_chat_takes_text_in_parts_names_and_the_newer_role_of_a_system_prompt",
        ),
        "max_tokens": _honoured(
            integer(1, MAX_NEW_TOKENS), "what the context leaves, unless said", _REACHES
        ),
        "max_completion_tokens": _honoured(
            integer(1, MAX_NEW_TOKENS), "the newer name of max_tokens", _REACHES
        ),
        "logprobs": _honoured(
            boolean,
            "the logarithm of each token's probability",
            "test_logprobs.py::test_logprobs_of_a_chat_are_a_list_of_tokens",
        ),
        "top_logprobs": _honoured(
            integer(0, MAX_LOGPROBS),
            "so many candidates for each; with logprobs=true",
            "test_logprobs.py::test_logprobs_of_a_chat_are_a_list_of_tokens",
        ),
        "tools": _honoured(
            _TOOLS,
            "functions that the model may call",
            _TOOL_TEST + "test_a_call_in_each_models_own_words_is_a_call",
        ),
        "tool_choice": _honoured(
            _TOOL_CHOICE,
            "whether it may, must, or must call one by name",
            _TOOL_TEST + "test_a_call_that_is_required_is_drawn_by_a_grammar",
        ),
        "parallel_tool_calls": _honoured(
            boolean,
            "false ends the answer after one call",
            _TOOL_TEST + "test_where_calls_may_not_be_parallel_the_first_ends_the_answer",
        ),
        "chat_template_kwargs": _honoured(
            some_object,
            "variables of the template",
            "test_chat_requests.py::test_variables_reach_the_template_and_none_of_its_own_names",
        ),
        "add_generation_prompt": _honoured(
            boolean,
            "whether the template opens an answer; true unless said",
            "test_chat_requests.py::test_an_answer_may_go_on_from_the_last_message",
        ),
        "continue_final_message": _honoured(
            boolean,
            "the answer goes on with the last message; with add_generation_prompt=false",
            "test_chat_requests.py::test_an_answer_may_go_on_from_the_last_message",
        ),
        "functions": _off(([],), "use tools"),
        "function_call": _off(("none", "auto"), "use tool_choice"),
        "modalities": _off((["text"],), "text is all there is"),
        "store": _off((False,), "answers are not kept"),
        "service_tier": _off(("auto", "default"), "there is one"),
        "audio": _refused("text is all there is"),
        "chat_template": _refused("templates come with the model"),
        "documents": _refused("write them into a message"),
        "echo": _refused("use /v1/completions"),
        "mm_processor_kwargs": _refused("text is all there is"),
        "moderation": _refused("nothing is moderated here"),
        "prediction": _refused("there is no predicted output"),
        "prompt_cache_key": _refused("no cache is shared between requests"),
        "prompt_cache_options": _refused("no cache is shared between requests"),
        "prompt_cache_retention": _refused("no cache is shared between requests"),
        "reasoning_effort": _refused("use chat_template_kwargs, if the model has such a variable"),
        "verbosity": _refused("say it in a message"),
        "web_search_options": _refused("there is no search"),
        **_VLLM_ONLY,
    },
)

_TOKEN_TEST = "test_token_routes.py::"

TOKENIZE = Endpoint(
    "/tokenize",
    {
        "model": _MODEL,
        "prompt": _honoured(string, "a text", _TOKEN_TEST + "test_a_text_becomes_tokens_and_back"),
        "messages": _honoured(
            _MESSAGES, "a chat, instead", _TOKEN_TEST + "test_a_chat_becomes_tokens"
        ),
        "tools": _honoured(_TOOLS, "with messages", _TOKEN_TEST + "test_a_chat_becomes_tokens"),
        "chat_template_kwargs": _honoured(
            some_object, "with messages", _TOKEN_TEST + "test_a_chat_becomes_tokens"
        ),
        "add_special_tokens": _honoured(
            boolean,
            "with a prompt",
            _TOKEN_TEST + "test_the_tokens_that_open_a_prompt_may_be_left_out",
        ),
        "add_generation_prompt": _honoured(
            boolean, "with messages", _TOKEN_TEST + "test_a_chat_becomes_tokens"
        ),
        "return_token_strs": _honoured(
            boolean, "the text of each", _TOKEN_TEST + "test_a_text_becomes_tokens_and_back"
        ),
    },
)

DETOKENIZE = Endpoint(
    "/detokenize",
    {
        "model": _MODEL,
        "tokens": _honoured(
            _TOKENS,
            "in order",
            _TOKEN_TEST + "test_a_text_becomes_tokens_and_back",
        ),
    },
)

ENDPOINTS = (COMPLETIONS, CHAT, TOKENIZE, DETOKENIZE)
