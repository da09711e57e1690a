"""From prompts and chats to token ids, without keeping the event loop from its streams.

What is short is tokenized at once. What is long goes to one thread, one request at a time, under a
deadline. A thread cannot be stopped, so its next turn begins only when it is free again: however
slow it is, what waits for it is bounded.
"""

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol, TypeVar

from models.errors import ModelError
from runtime.gateway.backend import Overloaded
from runtime.gateway.errors import ApiError, server_error
from runtime.gateway.prompts import Message, Prompt

T = TypeVar("T")

SHORT_CHARACTERS = 4096
"""What is no longer than this is tokenized in a few milliseconds at most."""
MESSAGE_CHARACTERS = 32
"""To render one more message costs about as much as to tokenize this."""
MAX_WAITING = 16
MAX_CHECKS = 256
"""What is checked is small and bounded, unlike a prompt: as many may wait as a pipeline queues."""
RETRY_AFTER_S = 5


class Detokenizer(Protocol):
    """Tokens to text as they come."""

    def push(self, token_ids: Sequence[int]) -> str:
        """Take tokens; the text that is now certain."""
        ...

    def flush(self) -> str:
        """The text of what was held back."""
        ...


class Tokenizer(Protocol):
    """What the gateway needs of a model's tokenizer; `encode*` may run in a thread."""

    @property
    def vocab_size(self) -> int:
        """One more than the highest token id."""
        ...

    @property
    def template_source(self) -> str:
        """The chat template's source, empty if there is none."""
        ...

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Token ids of a prompt, with the tokens that open one unless told otherwise."""
        ...

    def encode_chat(
        self,
        messages: Sequence[Message],
        *,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        **variables: Any,
    ) -> list[int]:
        """Token ids of a chat."""
        ...

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """The text of some tokens."""
        ...

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes that one token stands for."""
        ...

    def detokenizer(
        self, prompt_ids: Sequence[int], *, skip_special_tokens: bool = True
    ) -> Detokenizer:
        """A detokenizer for what follows a prompt."""
        ...


TokenIds = tuple[int, ...]


class Tokenizing:
    """Tokenizes for all requests of a gateway; `close` lets the thread go."""

    def __init__(self, tokenizer: Tokenizer, timeout_s: float) -> None:
        self._tokenizer = tokenizer
        self._timeout_s = timeout_s
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="tokenizing")
        self._turn = asyncio.Semaphore(1)
        self._waiting = {"long prompts": 0, "requests with checks": 0}

    async def prompts(
        self, prompts: Sequence[Prompt], *, add_special_tokens: bool = True
    ) -> list[TokenIds]:
        """Token ids of each prompt.

        Raises:
            ApiError: 400 for a prompt without a token; 503 where it takes too long.
            Overloaded: too many long prompts wait already.
        """
        size = sum(len(prompt) for prompt in prompts if isinstance(prompt, str))

        def encode() -> list[TokenIds]:
            return [self._prompt(prompt, add_special_tokens) for prompt in prompts]

        return await self._run(size, encode)

    async def chat(self, messages: Sequence[Message], variables: dict[str, Any]) -> TokenIds:
        """Token ids of a chat in the model's template; raises what `prompts` does."""
        size = _num_characters(messages) + _num_characters(variables)
        size += len(messages) * MESSAGE_CHARACTERS
        return await self._run(size, lambda: self._chat(messages, variables))

    async def text(self, token_ids: TokenIds) -> str:
        """The text of some tokens; raises what `prompts` does."""
        return await self._run(len(token_ids), lambda: self._tokenizer.decode(token_ids))

    async def check(self, work: Callable[[], T]) -> T:
        """Do what is small, and may take long all the same, in the same thread.

        Raises:
            ApiError: 503 where it takes too long.
            Overloaded: too many wait for theirs already.
        """
        return await self._in_turn("requests with checks", MAX_CHECKS, work)

    def close(self) -> None:
        """Take no more work; what is under way is not waited for."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _prompt(self, prompt: Prompt, add_special_tokens: bool) -> TokenIds:
        if not isinstance(prompt, str):
            return _not_empty("prompt", prompt)
        ids = self._tokenizer.encode(prompt, add_special_tokens=add_special_tokens)
        return _not_empty("prompt", ids)

    def _chat(self, messages: Sequence[Message], variables: dict[str, Any]) -> TokenIds:
        try:
            return _not_empty("messages", self._tokenizer.encode_chat(messages, **variables))
        except ModelError as error:
            raise ApiError(400, f"messages: {error}", param="messages") from None

    async def _run(self, size: int, work: Callable[[], T]) -> T:
        if size <= SHORT_CHARACTERS:
            return work()
        return await self._in_turn("long prompts", MAX_WAITING, work)

    async def _in_turn(self, kind: str, max_waiting: int, work: Callable[[], T]) -> T:
        if (num_waiting := self._waiting[kind]) >= max_waiting:
            message = f"{num_waiting} {kind} wait to be tokenized and checked"
            raise Overloaded(message, retry_after_s=RETRY_AFTER_S)
        self._waiting[kind] += 1
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._turn.acquire()
                return await self._in_thread(work)
        except TimeoutError:
            reason = f"the prompt was not tokenized and checked within {self._timeout_s:g} s"
            raise server_error(503, reason, "tokenizing_timeout", RETRY_AFTER_S) from None
        finally:
            self._waiting[kind] -= 1

    def _in_thread(self, work: Callable[[], T]) -> "asyncio.Future[T]":
        """Start the work; the turn ends with it, not with who waits for it."""
        loop = asyncio.get_running_loop()

        def end_turn(_: object) -> None:
            with contextlib.suppress(RuntimeError):  # the loop has ended, and all turns with it
                loop.call_soon_threadsafe(self._turn.release)

        future = self._thread.submit(work)
        future.add_done_callback(end_turn)
        return asyncio.wrap_future(future)


def _not_empty(param: str, token_ids: Sequence[int]) -> TokenIds:
    if not token_ids:
        raise ApiError(400, f"{param}: expected at least one token, got none", param=param)
    return tuple(token_ids)


def _num_characters(value: Any) -> int:
    """Of all texts in a JSON value; what is no text counts for a little."""
    if isinstance(value, str):
        return len(value)
    parts = [*value.keys(), *value.values()] if isinstance(value, dict) else value
    return sum(map(_num_characters, parts)) if isinstance(parts, list | tuple) else 4
