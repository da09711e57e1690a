"""The table of the parameters that both kinds of generation take: how tokens are drawn, and told.

Beside OpenAI's there are those of vLLM that evaluation and benchmark tools send; what of vLLM's is
not supported stands here as well, so that it is refused by name.
"""

from collections.abc import Mapping
from dataclasses import replace

from runtime.gateway import input_schemas as schemas
from runtime.gateway.fates import honoured, label, unsupported
from runtime.gateway.keys import MAX_PRIORITY
from runtime.gateway.parameters import Parameter
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

_SEED = replace(integer(-MAX_INT - 1, MAX_INT), expected="a whole number of 64 bits, signed")
_TARGETS = Reader(
    "`ttft` and `tpot` in seconds, `refuse` as a boolean", are_targets, schema=schemas.TARGETS
)
_PENALTY = number(-2, 2)


REACHES = "test_answers.py::test_what_is_asked_for_reaches_the_backend"
_SHAPED = "test_shaped_requests.py::test_what_shapes_the_drawing_reaches_the_backend"
_STRUCTURED = "test_structured.py::test_every_form_of_a_structured_answer_is_one_grammar"

MODEL = honoured(
    string, "must be the served model", "test_refusals.py::test_another_model_is_not_found"
)

SAMPLING: Mapping[str, Parameter] = {
    "model": MODEL,
    "temperature": honoured(number(0, 2), "divides the logits; 0 is greedy", REACHES),
    "top_p": honoured(number(0, 1, open_low=True), "keeps the likeliest of this mass", REACHES),
    "top_k": honoured(top_k, "keeps so many candidates", REACHES),
    "min_p": honoured(number(0, 1), "keeps what is as likely, against the likeliest", REACHES),
    "seed": honoured(
        _SEED,
        "the same request with the same seed gives the same tokens; choice i has seed + i",
        "test_choices.py::test_each_choice_has_a_seed_of_its_own_and_the_first_has_the_requests",
    ),
    "n": honoured(
        integer(1, MAX_CHOICES),
        "choices for each prompt",
        "test_choices.py::test_n_choices_for_each_prompt_come_in_order",
    ),
    "stop": honoured(
        stops,
        "the text ends before the stop string that is complete first",
        "test_stops.py::test_a_stop_string_over_several_tokens_ends_the_answer_and_frees_the_sequence",
    ),
    "stop_token_ids": honoured(
        token_ids,
        "tokens that end the answer, beside the model's own",
        "test_shaped_requests.py::test_stop_tokens_are_added_to_the_models_own",
    ),
    "include_stop_str_in_output": honoured(
        boolean,
        "whether a stop string is shown",
        "test_stops.py::test_a_stop_string_is_shown_where_that_is_asked_for",
    ),
    "min_tokens": honoured(
        integer(0, MAX_NEW_TOKENS),
        "no end or stop token is drawn before",
        "test_shaped_requests.py::test_no_stop_token_may_come_before_min_tokens",
    ),
    "ignore_eos": honoured(boolean, "the model's end token does not end the answer", REACHES),
    "presence_penalty": honoured(_PENALTY, "off the logits of tokens in the answer", _SHAPED),
    "frequency_penalty": honoured(_PENALTY, "the same, for each time", _SHAPED),
    "repetition_penalty": honoured(
        number(0, 10, open_low=True), "divides, for tokens of prompt and answer", _SHAPED
    ),
    "logit_bias": honoured(logit_bias, "is added to the logits of tokens", _SHAPED),
    "allowed_token_ids": honoured(token_ids, "no other token is drawn", _SHAPED),
    "prompt_logprobs": honoured(
        integer(0, MAX_LOGPROBS),
        "so many candidates for each token of the prompt; not in streams",
        "test_logprobs.py::test_prompt_logprobs_are_told_beside_either_answer",
    ),
    "response_format": honoured(
        replace(some_object, schema=schemas.RESPONSE_FORMAT),
        'type "text", "json_object" or "json_schema"',
        _STRUCTURED,
    ),
    "structured_outputs": honoured(
        replace(some_object, schema=schemas.STRUCTURED_OUTPUTS),
        "one of json, json_object, regex, choice and grammar",
        _STRUCTURED,
    ),
    "guided_json": honoured(
        replace(anything, schema=schemas.JSON_SCHEMA),
        "a JSON schema that the answer follows",
        _STRUCTURED,
    ),
    "guided_regex": honoured(
        replace(string, schema=schemas.PATTERN), "a pattern that the answer matches", _STRUCTURED
    ),
    "guided_choice": honoured(
        replace(anything, schema=schemas.CHOICE), "texts of which the answer is one", _STRUCTURED
    ),
    "guided_grammar": honoured(
        replace(string, schema=schemas.PATTERN), "a Lark grammar of the answer", _STRUCTURED
    ),
    "skip_special_tokens": honoured(
        boolean,
        "whether special tokens are left out of the text; true unless said",
        "test_shaped_requests.py::test_special_tokens_are_shown_where_that_is_asked_for",
    ),
    "stream": honoured(
        boolean,
        "the answer comes as events",
        "test_streaming.py::test_a_completion_stream_is_pieces_of_text_and_the_reason",
    ),
    "stream_options": honoured(
        stream_options,
        "usage at the end, or with every event",
        "test_streaming.py::test_the_usage_comes_last_and_only_where_it_was_asked_for",
    ),
    "timeout": honoured(
        replace(number(0, 86400, open_low=True), expected="seconds, up to `limits.max_queue_s`"),
        "so long the request may wait for its turn",
        "test_admission.py::test_over_http_a_queue_timeout_is_a_504",
    ),
    "priority": honoured(
        integer(-MAX_PRIORITY, MAX_PRIORITY),
        "less goes first; a key may not ask for less than its own",
        "test_access.py::test_a_key_may_be_less_urgent_than_it_is_and_not_more",
    ),
    "slo": honoured(
        _TARGETS,
        "how fast the answer is to be; with `refuse` a 429 at once where that is not to be had",
        "test_targets.py::test_over_http_a_target_that_cannot_be_met_is_a_429_that_names_it",
    ),
    "user": label("for a provider's records"),
    "metadata": label("for a provider's records"),
    "safety_identifier": label("for a provider's records"),
}

VLLM_ONLY: Mapping[str, Parameter] = {
    "bad_words": unsupported("use logit_bias"),
    "cache_salt": unsupported("no cache is shared between requests"),
    "guided_decoding_backend": unsupported("there is one"),
    "kv_transfer_params": unsupported("no client says where KV goes"),
    "length_penalty": unsupported("there is no beam search"),
    "prompt_embeds": unsupported("prompts are text or token ids"),
    "request_id": unsupported("the service names its requests"),
    "return_token_ids": unsupported("use logprobs, or /tokenize"),
    "return_tokens_as_token_ids": unsupported("tokens are told as text"),
    "truncate_prompt_tokens": unsupported("a prompt that does not fit is refused"),
    "use_beam_search": unsupported("there is no beam search"),
}
