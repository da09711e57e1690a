"""From text to what a training step reads: the tokenizer, the chat template, the token stream.

Running text is learned whole; of a chat only the answers are, because a question names things
that nobody could foresee. Documents lie end to end, and a row is any window of that stream.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from examples.demo_model.conversation import Message, conversations
from examples.demo_model.corpus import Entry

VOCABULARY = 2048
CONTEXT = 2048
CHAT_ROUNDS = 2  # every entry is asked about in so many rounds of chats
IGNORED = -100  # the label of a token that is read but not learned

BEGIN, END, PAD = "<|begin|>", "<|end|>", "<|pad|>"
ROLES = {"system": "<|system|>", "user": "<|user|>", "assistant": "<|assistant|>"}
CHAT_TEMPLATE = """\
{{- bos_token -}}
{%- for message in messages -%}
  {%- set role = 'system' if message['role'] == 'developer' else message['role'] -%}
  {%- if role not in ['system', 'user', 'assistant'] -%}
    {{- raise_exception("the demo model knows no role '" ~ role ~ "'") -}}
  {%- endif -%}
  {{- '<|' ~ role ~ '|>' ~ (message['content'] | trim) ~ eos_token -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}
"""


@dataclass(frozen=True, slots=True)
class Stream:
    """Token ids and, at the same places, the labels to learn.

    Shapes:
        token_ids, labels: [tokens] int64; a label is the token itself or IGNORED.
    """

    token_ids: torch.Tensor
    labels: torch.Tensor


def train_tokenizer(entries: Sequence[Entry], rng: random.Random) -> PreTrainedTokenizerFast:
    """A byte-level BPE with the chat tokens, learned from the text the model will learn."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    chats = (message["content"] for chat in conversations(entries, rng) for message in chat)
    tokenizer.train_from_iterator((*running_texts(entries), *chats), _bpe_trainer())
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BEGIN} $A", special_tokens=[(BEGIN, tokenizer.token_to_id(BEGIN))]
    )
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        bos_token=BEGIN,
        eos_token=END,
        pad_token=PAD,
        chat_template=CHAT_TEMPLATE,
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
    )


def build_stream(
    tokenizer: PreTrainedTokenizerFast, entries: Sequence[Entry], rng: random.Random
) -> Stream:
    """Running text and chats as tokens, shuffled and laid end to end."""
    texts = (*running_texts(entries), *numbered_texts(entries, rng))
    documents = [_learned_whole(tokenizer, text) for text in texts]
    for _ in range(CHAT_ROUNDS):
        documents += [_answers_learned(tokenizer, chat) for chat in conversations(entries, rng)]
    rng.shuffle(documents)
    pairs = torch.tensor([pair for document in documents for pair in document])
    return Stream(pairs[:, 0].contiguous(), pairs[:, 1].contiguous())


def running_texts(entries: Sequence[Entry]) -> Iterator[str]:
    """One text for each module or topic: all its paragraphs in their order."""
    texts: dict[str, list[str]] = {}
    for entry in entries:
        texts.setdefault(entry.home, []).extend(entry.paragraphs)
    for paragraphs in texts.values():
        yield "\n".join(paragraphs)


def numbered_texts(entries: Sequence[Entry], rng: random.Random) -> Iterator[str]:
    """Short numbered lists of first paragraphs, so that a numbered prompt is no surprise."""
    for _ in range(len(entries) // 25):
        mark = rng.choice(("Number {}: ", "{}. ", "Item {}: ", "Part {}: "))
        chosen = rng.sample(entries, 5)
        lines = (mark.format(i) + entry.paragraphs[0] for i, entry in enumerate(chosen, 1))
        yield "\n".join(lines)


def _bpe_trainer() -> trainers.BpeTrainer:
    special = [PAD, BEGIN, END, *ROLES.values()]
    return trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in special],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )


def _learned_whole(tokenizer: PreTrainedTokenizerFast, text: str) -> list[tuple[int, int]]:
    token_ids = [*tokenizer.encode(text, verbose=False), _id(tokenizer, END)]
    return list(zip(token_ids, token_ids, strict=True))


def _answers_learned(
    tokenizer: PreTrainedTokenizerFast, chat: Sequence[Message]
) -> list[tuple[int, int]]:
    pairs = [(_id(tokenizer, BEGIN), IGNORED)]
    for message in chat:
        pairs.append((_id(tokenizer, ROLES[message["role"]]), IGNORED))
        body = tokenizer.encode(message["content"], add_special_tokens=False)
        learned = message["role"] == "assistant"
        token_ids = (*body, _id(tokenizer, END))
        pairs += [(token_id, token_id if learned else IGNORED) for token_id in token_ids]
    return pairs


def _id(tokenizer: PreTrainedTokenizerFast, token: str) -> int:
    token_id = tokenizer.convert_tokens_to_ids(token)
    assert isinstance(token_id, int)
    return token_id
