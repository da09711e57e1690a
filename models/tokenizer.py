"""Text to token ids and back, and chats to text, as the model's own files say.

The one idea: the gateway needs a tokenizer at once, so this uses the `tokenizers` and `jinja2`
packages directly; importing transformers would cost every process seconds. What opens a prompt is
decided by the post-processor of `tokenizer.json` alone, as in transformers' `AutoTokenizer`, which
ignores `add_bos_token` where there is such a file.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizers import AddedToken
from tokenizers import Tokenizer as FastTokenizer

from models.chat_template import ChatTemplate
from models.config import read_json
from models.detokenizer import Detokenizer
from models.errors import BadCheckpoint, BadTemplate
from models.token_bytes import token_bytes


class Tokenizer:
    """Encodes and decodes one model's text."""

    def __init__(self, fast: FastTokenizer, template: ChatTemplate | None) -> None:
        self._fast = fast
        self._template = template
        # Asking the library builds the whole vocabulary anew: milliseconds.
        self._vocab_size = max(fast.get_vocab(with_added_tokens=True).values()) + 1
        self._added = {i: token.content for i, token in fast.get_added_tokens_decoder().items()}
        self._is_byte_level = "ByteLevel" in repr(fast.decoder)

    @classmethod
    def from_directory(cls, path: str | Path) -> "Tokenizer":
        """Load `tokenizer.json`, `tokenizer_config.json` and the chat template, if there is one.

        Raises:
            BadCheckpoint: a file is missing or garbled.
        """
        directory = Path(path)
        settings_file = directory / "tokenizer_config.json"
        settings = read_json(settings_file) if settings_file.exists() else {}
        fast = _load(directory / "tokenizer.json")
        _add_tokens(fast, settings)
        return cls(fast, _template(directory, settings))

    @property
    def vocab_size(self) -> int:
        """One more than the highest token id that has a text."""
        return self._vocab_size

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Token ids of a text, with the tokens that open a prompt unless told otherwise."""
        # A batch of one: `encode` keeps the interpreter's lock, which stalls every other thread.
        (encoding,) = self._fast.encode_batch([_sound(text)], add_special_tokens=add_special_tokens)
        return list(encoding.ids)

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """The text of some token ids; bytes that are no UTF-8 become replacement characters."""
        return str(self._fast.decode(list(token_ids), skip_special_tokens=skip_special_tokens))

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes that a token stands for, special ones included; none if it is unknown."""
        if (content := self._added.get(token_id)) is not None:
            return content.encode()
        piece = self._fast.id_to_token(token_id)
        return b"" if piece is None else token_bytes(piece, is_byte_level=self._is_byte_level)

    @property
    def template_source(self) -> str:
        """The chat template's source, empty if there is none."""
        return "" if self._template is None else self._template.source

    def detokenizer(
        self, prompt_ids: Sequence[int] = (), *, skip_special_tokens: bool = True
    ) -> "Detokenizer":
        """A detokenizer for the tokens that follow `prompt_ids`."""

        def decode(token_ids: Sequence[int]) -> str:
            return self.decode(token_ids, skip_special_tokens=skip_special_tokens)

        return Detokenizer(decode, prompt_ids)

    def render_chat(
        self,
        messages: Iterable[Mapping[str, Any]],
        *,
        add_generation_prompt: bool = True,
        **variables: Any,
    ) -> str:
        """Render a chat by the model's template, ready to be encoded without special tokens.

        Raises:
            BadTemplate: the model has no template, or its template refuses the messages.
        """
        if self._template is None:
            raise BadTemplate("this model has no chat template; use /v1/completions")
        return self._template.render(
            messages, add_generation_prompt=add_generation_prompt, **variables
        )

    def encode_chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        continue_final_message: bool = False,
        **variables: Any,
    ) -> list[int]:
        """Token ids of a rendered chat; the template itself writes the opening tokens.

        Args:
            messages: the chat.
            continue_final_message: whether to leave out what closes the last message.
            variables: what the template is given beside them.

        Raises:
            BadTemplate: the template refuses the messages, or does not show the last one as it is.
        """
        text = self.render_chat(messages, **variables)
        if continue_final_message:
            text = _up_to_the_end_of(messages[-1]["content"].strip(), text)
        return self.encode(text, add_special_tokens=False)


def _up_to_the_end_of(content: str, text: str) -> str:
    at = text.rfind(content)
    if at < 0 or not content:
        raise BadTemplate("the chat template does not show the last message as it is")
    return text[: at + len(content)]


def _sound(text: str) -> str:
    """The text with lone surrogates, which JSON can carry and no vocabulary knows, replaced."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _load(path: Path) -> FastTokenizer:
    # The library raises bare Exception for what is no tokenizer, so its outline is checked first.
    model = read_json(path).get("model")
    if not isinstance(model, dict) or not model.get("vocab"):
        raise BadCheckpoint(f"{path}: expected a tokenizer with a vocabulary, got none")
    fast = FastTokenizer.from_file(str(path))
    fast.no_truncation()
    fast.no_padding()
    return fast


def _add_tokens(fast: FastTokenizer, settings: Mapping[str, Any]) -> None:
    """Add the tokens that only `tokenizer_config.json` knows, in the order of their ids."""
    listed = settings.get("added_tokens_decoder") or {}
    known = fast.get_vocab(with_added_tokens=True)
    for _, entry in sorted(listed.items(), key=lambda item: int(item[0])):
        if entry["content"] not in known:
            flags = {k: bool(v) for k, v in entry.items() if k != "content"}
            fast.add_tokens([AddedToken(entry["content"], **flags)])


def _special(settings: Mapping[str, Any], key: str) -> str | None:
    value = settings.get(key)
    return value.get("content") if isinstance(value, Mapping) else value


def _template(directory: Path, settings: Mapping[str, Any]) -> ChatTemplate | None:
    file = directory / "chat_template.jinja"
    source = file.read_text(encoding="utf-8") if file.exists() else settings.get("chat_template")
    if isinstance(source, list):
        named = {entry.get("name"): entry.get("template") for entry in source}
        source = named.get("default")
    if not source:
        return None
    keys = [key for key in settings if key.endswith("_token") and not key.startswith("add_")]
    tokens = {key: text for key in keys if (text := _special(settings, key)) is not None}
    return ChatTemplate(source, tokens)
