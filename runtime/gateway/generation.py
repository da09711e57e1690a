"""From checked parameters to what the backend is asked, bounded by the model."""

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from models.sampling_extras import NO_LOGPROBS, SamplingExtras
from runtime.gateway.backend import GenerationRequest
from runtime.gateway.errors import ApiError, refused


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """What requests are checked against."""

    name: str
    max_len: int
    eos_token_ids: tuple[int, ...]

    def check_name(self, name: str) -> None:
        """Refuse a request for another model; raises `ApiError`, 404."""
        if name != self.name:
            message = f"The model {name[:128]!r} does not exist; this is {self.name!r}."
            raise ApiError(404, message, param="model", code="model_not_found")


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A request's parameters, and what was worked out from them once for all its choices.

    Attributes:
        parameters: those that are honoured, by name.
        prompt_param: which of them the prompt came in.
        default_max_tokens: where they do not say; None is all that the context leaves.
        extras: what shapes the drawing.
        seed: of the first choice.
    """

    parameters: Mapping[str, Any]
    prompt_param: str
    default_max_tokens: int | None
    extras: SamplingExtras
    seed: int


def generation_request(
    prompt: tuple[int, ...], asked: Asked, model: ModelFacts, request_id: str, choice: int = 0
) -> GenerationRequest:
    """Bound one sequence by the model's context and fill in what was left open.

    Raises:
        ApiError: 400, where prompt and answer cannot fit or the parameters contradict each other.
    """
    parameters = asked.parameters
    max_tokens = _max_tokens(len(prompt), asked, model)
    min_tokens = parameters.get("min_tokens", 0)
    if min_tokens > max_tokens:
        raise refused("min_tokens", f"at most {max_tokens}, which is max_tokens here", min_tokens)
    return GenerationRequest(
        request_id=request_id,
        token_ids=prompt,
        max_tokens=max(1, max_tokens),
        min_tokens=min_tokens,
        stop_token_ids=_stop_token_ids(parameters, model),
        temperature=parameters.get("temperature", 1.0),
        top_p=parameters.get("top_p", 1.0),
        top_k=parameters.get("top_k", 0),
        min_p=parameters.get("min_p", 0.0),
        seed=asked.seed + choice,
        extras=asked.extras,
    )


def _stop_token_ids(parameters: Mapping[str, Any], model: ModelFacts) -> tuple[int, ...]:
    own = () if parameters.get("ignore_eos") else model.eos_token_ids
    return tuple(dict.fromkeys((*own, *parameters.get("stop_token_ids", ()))))


def _max_tokens(num_prompt_tokens: int, asked: Asked, model: ModelFacts) -> int:
    """How long the answer may be; what was asked for fits or is refused, a default is cut."""
    said = {
        name: asked.parameters[name]
        for name in ("max_tokens", "max_completion_tokens")
        if name in asked.parameters
    }
    if len(set(said.values())) > 1:
        raise refused("max_tokens", "the same as max_completion_tokens", said["max_tokens"])
    room = model.max_len - num_prompt_tokens
    if room < 1:
        raise _too_long(asked.prompt_param, model, f"the prompt has {num_prompt_tokens}")
    for name, value in said.items():
        if value > room:
            wanted = f"the prompt has {num_prompt_tokens} and {name} is {value}"
            raise _too_long(name, model, wanted)
        return int(value)
    return room if asked.default_max_tokens is None else min(asked.default_max_tokens, room)


def _too_long(param: str, model: ModelFacts, wanted: str) -> ApiError:
    message = f"{param}: the context is {model.max_len} tokens, but {wanted}"
    return ApiError(400, message, param=param, code="context_length_exceeded")


def asked_of(
    parameters: Mapping[str, Any],
    *,
    prompt_param: str,
    default_max_tokens: int | None,
    grammar: str,
    vocab_size: int,
    rng: random.Random,
) -> Asked:
    """Work out what is the same for all choices of a request.

    Raises:
        ApiError: 400, where parameters contradict each other or name a token that is none.
    """
    for name in ("stop_token_ids", "allowed_token_ids"):
        _check_ids(name, parameters.get(name, ()), vocab_size)
    _check_ids("logit_bias", [token for token, _ in parameters.get("logit_bias", ())], vocab_size)
    _check_grammar(parameters, grammar)
    return Asked(
        parameters=parameters,
        prompt_param=prompt_param,
        default_max_tokens=default_max_tokens,
        extras=_extras(parameters, grammar),
        seed=parameters.get("seed", rng.getrandbits(63)),
    )


def _check_ids(name: str, token_ids: Any, vocab_size: int) -> None:
    for token in token_ids:
        if token >= vocab_size:
            raise refused(name, f"token ids from 0 to {vocab_size - 1}", token)


def _check_grammar(parameters: Mapping[str, Any], grammar: str) -> None:
    """A grammar ends an answer where it is whole, and not before."""
    if grammar and parameters.get("ignore_eos"):
        raise refused("ignore_eos", "false, as the answer's form says where it ends", True)
    if grammar and parameters.get("min_tokens", 0):
        expected = "0, as the answer's form says where it ends"
        raise refused("min_tokens", expected, parameters["min_tokens"])


def _extras(parameters: Mapping[str, Any], grammar: str) -> SamplingExtras:
    num_logprobs = _num_logprobs(parameters)
    echoed = num_logprobs if parameters.get("echo") else NO_LOGPROBS
    is_early = parameters.get("min_tokens", 0) > 0
    return SamplingExtras(
        presence_penalty=parameters.get("presence_penalty", 0.0),
        frequency_penalty=parameters.get("frequency_penalty", 0.0),
        repetition_penalty=parameters.get("repetition_penalty", 1.0),
        num_logprobs=num_logprobs if num_logprobs >= 0 else _for_ranking(parameters),
        num_prompt_logprobs=max(echoed, parameters.get("prompt_logprobs", NO_LOGPROBS)),
        bias=parameters.get("logit_bias", ()),
        allowed_ids=parameters.get("allowed_token_ids", ()),
        early_ids=parameters.get("stop_token_ids", ()) if is_early else (),
        grammar=grammar,
    )


def shows_logprobs(parameters: Mapping[str, Any]) -> bool:
    """Whether tokens are to be shown with their logprobs."""
    return _num_logprobs(parameters) >= 0


def _num_logprobs(parameters: Mapping[str, Any]) -> int:
    """Completions ask for a number, chats for logprobs and perhaps a number."""
    asked = parameters.get("logprobs", False)
    if asked is False:
        return NO_LOGPROBS
    return int(parameters.get("top_logprobs", 0) if asked is True else asked)


def _for_ranking(parameters: Mapping[str, Any]) -> int:
    return 0 if parameters.get("best_of", 1) > parameters.get("n", 1) else NO_LOGPROBS
