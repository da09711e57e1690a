"""The tables: every parameter of OpenAI's schema, what becomes of it, and the test that shows it.

What both kinds of generation take stands in `sampling_table`. This is data only: `parameters` reads
requests by it, `reference` writes `docs/openai.md` from it.
"""

from dataclasses import replace

from runtime.gateway import input_schemas as schemas
from runtime.gateway.fates import honoured, off, unsupported
from runtime.gateway.parameters import Endpoint
from runtime.gateway.sampling_table import (
    MAX_LOGPROBS,
    MAX_NEW_TOKENS,
    MODEL,
    REACHES,
    SAMPLING,
    VLLM_ONLY,
)
from runtime.gateway.values import anything, boolean, integer, some_object, string

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

COMPLETIONS = Endpoint(
    "/v1/completions",
    {
        **SAMPLING,
        "prompt": honoured(
            _PROMPT,
            "what is continued; 128 of them at most",
            "test_answers.py::test_every_form_of_prompt_gives_one_choice_a_prompt_in_order",
        ),
        "max_tokens": honoured(
            integer(0, MAX_NEW_TOKENS),
            "16 unless said; 0 draws nothing",
            "test_choices.py::test_no_token_at_all_may_be_asked_for",
        ),
        "best_of": honoured(
            integer(1, 20),
            "so many are drawn, the n likeliest by token are shown; not in streams",
            "test_choices.py::test_the_likeliest_of_best_of_are_shown_the_best_first",
        ),
        "echo": honoured(
            boolean,
            "the prompt stands before the answer, with logprobs as well",
            "test_logprobs.py::test_an_echo_with_logprobs_scores_the_prompt",
        ),
        "logprobs": honoured(
            integer(0, MAX_LOGPROBS),
            "each token's own and so many candidates'",
            "test_logprobs.py::test_logprobs_of_a_completion_are_four_lists",
        ),
        "add_special_tokens": honoured(
            boolean,
            "whether a prompt in text gets the tokens that open every prompt; true unless said",
            "test_shaped_requests.py::test_a_prompt_may_go_without_the_tokens_that_open_one",
        ),
        "suffix": unsupported("the models served here do not fill in"),
        **VLLM_ONLY,
    },
)

_TOOL_TEST = "test_tools.py::"

CHAT = Endpoint(
    "/v1/chat/completions",
    {
        **SAMPLING,
        "messages": honoured(
            _MESSAGES,
            "the chat, rendered by the model's template",
            "test_answers.py::test_a_chat_takes_text_in_parts_names_and_the_newer_role_of_a_system_prompt",
        ),
        "max_tokens": honoured(
            integer(1, MAX_NEW_TOKENS), "what the context leaves, unless said", REACHES
        ),
        "max_completion_tokens": honoured(
            integer(1, MAX_NEW_TOKENS), "the newer name of max_tokens", REACHES
        ),
        "logprobs": honoured(
            boolean,
            "the logarithm of each token's probability",
            "test_logprobs.py::test_logprobs_of_a_chat_are_a_list_of_tokens",
        ),
        "top_logprobs": honoured(
            integer(0, MAX_LOGPROBS),
            "so many candidates for each; with logprobs=true",
            "test_logprobs.py::test_logprobs_of_a_chat_are_a_list_of_tokens",
        ),
        "tools": honoured(
            _TOOLS,
            "functions that the model may call",
            _TOOL_TEST + "test_a_call_in_each_models_own_words_is_a_call",
        ),
        "tool_choice": honoured(
            _TOOL_CHOICE,
            "whether it may, must, or must call one by name",
            _TOOL_TEST + "test_a_call_that_is_required_is_drawn_by_a_grammar",
        ),
        "parallel_tool_calls": honoured(
            boolean,
            "false ends the answer after one call",
            _TOOL_TEST + "test_where_calls_may_not_be_parallel_the_first_ends_the_answer",
        ),
        "chat_template_kwargs": honoured(
            some_object,
            "variables of the template",
            "test_chat_requests.py::test_variables_reach_the_template_and_none_of_its_own_names",
        ),
        "add_generation_prompt": honoured(
            boolean,
            "whether the template opens an answer; true unless said",
            "test_chat_requests.py::test_an_answer_may_go_on_from_the_last_message",
        ),
        "continue_final_message": honoured(
            boolean,
            "the answer goes on with the last message; with add_generation_prompt=false",
            "test_chat_requests.py::test_an_answer_may_go_on_from_the_last_message",
        ),
        "functions": off(([],), "use tools"),
        "function_call": off(("none", "auto"), "use tool_choice"),
        "modalities": off((["text"],), "text is all there is"),
        "store": off((False,), "answers are not kept"),
        "service_tier": off(("auto", "default"), "there is one"),
        "audio": unsupported("text is all there is"),
        "chat_template": unsupported("templates come with the model"),
        "documents": unsupported("write them into a message"),
        "echo": unsupported("use /v1/completions"),
        "mm_processor_kwargs": unsupported("text is all there is"),
        "moderation": unsupported("nothing is moderated here"),
        "prediction": unsupported("there is no predicted output"),
        "prompt_cache_key": unsupported("no cache is shared between requests"),
        "prompt_cache_options": unsupported("no cache is shared between requests"),
        "prompt_cache_retention": unsupported("no cache is shared between requests"),
        "reasoning_effort": unsupported(
            "use chat_template_kwargs, if the model has such a variable"
        ),
        "verbosity": unsupported("say it in a message"),
        "web_search_options": unsupported("there is no search"),
        **VLLM_ONLY,
    },
)

_TOKEN_TEST = "test_token_routes.py::"

TOKENIZE = Endpoint(
    "/tokenize",
    {
        "model": MODEL,
        "prompt": honoured(string, "a text", _TOKEN_TEST + "test_a_text_becomes_tokens_and_back"),
        "messages": honoured(
            _MESSAGES, "a chat, instead", _TOKEN_TEST + "test_a_chat_becomes_tokens"
        ),
        "tools": honoured(_TOOLS, "with messages", _TOKEN_TEST + "test_a_chat_becomes_tokens"),
        "chat_template_kwargs": honoured(
            some_object, "with messages", _TOKEN_TEST + "test_a_chat_becomes_tokens"
        ),
        "add_special_tokens": honoured(
            boolean,
            "with a prompt",
            _TOKEN_TEST + "test_the_tokens_that_open_a_prompt_may_be_left_out",
        ),
        "add_generation_prompt": honoured(
            boolean, "with messages", _TOKEN_TEST + "test_a_chat_becomes_tokens"
        ),
        "return_token_strs": honoured(
            boolean, "the text of each", _TOKEN_TEST + "test_a_text_becomes_tokens_and_back"
        ),
    },
)

DETOKENIZE = Endpoint(
    "/detokenize",
    {
        "model": MODEL,
        "tokens": honoured(
            _TOKENS,
            "in order",
            _TOKEN_TEST + "test_a_text_becomes_tokens_and_back",
        ),
    },
)

ENDPOINTS = (COMPLETIONS, CHAT, TOKENIZE, DETOKENIZE)
