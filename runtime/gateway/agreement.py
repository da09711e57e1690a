"""Parameters that are right each by itself and wrong together, refused by the name of one."""

from collections.abc import Mapping
from typing import Any

from runtime.gateway.errors import ApiError, refused

MAX_SEQUENCES = 128
"""Sequences of one request: prompts times choices."""


def check_agreement(parameters: Mapping[str, Any]) -> None:
    """Refuse what contradicts itself.

    Raises:
        ApiError: 400, with the name of a parameter that cannot be honoured beside another.
    """
    streams = parameters.get("stream", False)
    if "stream_options" in parameters and not streams:
        raise ApiError(400, "stream_options: only with stream=true", param="stream_options")
    if streams and "prompt_logprobs" in parameters:
        raise refused("prompt_logprobs", "nothing in a stream", parameters["prompt_logprobs"])
    if parameters.get("top_logprobs") and parameters.get("logprobs") is not True:
        raise ApiError(400, "top_logprobs: only with logprobs=true", param="top_logprobs")
    _check_best_of(parameters, streams=streams)
    if parameters.get("continue_final_message") and parameters.get("add_generation_prompt", True):
        message = "continue_final_message: only with add_generation_prompt=false"
        raise ApiError(400, message, param="continue_final_message")


def _check_best_of(parameters: Mapping[str, Any], *, streams: bool) -> None:
    best_of, n = parameters.get("best_of"), parameters.get("n", 1)
    if best_of is None:
        return
    if best_of < n:
        raise refused("best_of", f"at least {n}, which is n", best_of)
    if streams and best_of > n:
        raise refused("best_of", "n in a stream, as the best is known at the end only", best_of)


def check_number(num_prompts: int, parameters: Mapping[str, Any]) -> None:
    """Refuse more sequences than one request may have; raises `ApiError`."""
    name = _name_of_number(parameters)
    choices = parameters.get(name, 1)
    if num_prompts * choices > MAX_SEQUENCES and choices > 1:
        expected = f"at most {MAX_SEQUENCES} sequences, but there are {num_prompts} prompts"
        raise refused(name, expected, choices)


def check_places(
    parameters: Mapping[str, Any], num_sequences: int, max_sequences: int | None
) -> None:
    """Refuse a request that no queue could ever hold, which an idle one would refuse again.

    Raises:
        ApiError: 400; fewer choices or prompts would fit.
    """
    if max_sequences is None or num_sequences <= max_sequences:
        return
    name = _name_of_number(parameters)
    param = name if parameters.get(name, 1) > 1 else "prompt"
    message = (
        f"{param}: expected at most {max_sequences} sequences, as many as this service works on "
        f"and queues, got {num_sequences}; send several requests"
    )
    raise ApiError(400, message, param=param, code="rejected")


def _name_of_number(parameters: Mapping[str, Any]) -> str:
    return "best_of" if "best_of" in parameters else "n"
