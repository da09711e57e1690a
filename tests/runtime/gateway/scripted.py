"""A gateway on loopback whose backend says what a test has written down."""

import asyncio
import codecs
import json
import random
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from models.errors import BadTemplate
from runtime.gateway.app import Limits, create_apps
from runtime.gateway.backend import Backend, FinishReason, GenerationRequest, TokenBatch
from runtime.gateway.generation import ModelFacts
from runtime.gateway.operator import FlipWish, LinkFault, Operator, PlanWish, Unsupported
from runtime.gateway.reading import GrammarCheck
from runtime.gateway.safeguards import Safeguards
from runtime.gateway.server import ConnectionLimits, serving
from runtime.gateway.tokenizing import Tokenizer
from runtime.reports import ChangeReport, Phase

PATIENCE_S = 20.0
EOS = 256
VOCAB_SIZE = 257
MODEL = ModelFacts(name="horse", max_len=100, eos_token_ids=(EOS,))
NOW = 1_700_000_000.0
REFUSED_BY_TEMPLATE = "not this"

COMPLETIONS = "/v1/completions"
CHAT = "/v1/chat/completions"

Step = TokenBatch | Exception | asyncio.Event
Script = Callable[[GenerationRequest], Iterable[Step]]


class ByteDetokenizer:
    """Bytes to text; a character appears with its last byte."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token_ids: Sequence[int]) -> str:
        return self._decoder.decode(bytes(token_ids))

    def flush(self) -> str:
        return self._decoder.decode(b"", final=True)


class ByteTokenizer:
    """Every byte is a token."""

    vocab_size = VOCAB_SIZE

    template_source = "{{ tools }}"

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        return list(text.encode())

    def encode_chat(self, messages: Sequence[dict[str, Any]], **variables: Any) -> list[int]:
        if any(message["content"] == REFUSED_BY_TEMPLATE for message in messages):
            raise BadTemplate("the chat template refuses these messages")
        written = "".join(f"{m['role']}:{m['content']};" for m in messages)
        return self.encode(written + (json.dumps(variables) if variables else ""))

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        return bytes(token_ids).decode(errors="replace")

    def token_bytes(self, token_id: int) -> bytes:
        return b"<end>" if token_id == EOS else bytes([token_id])

    def detokenizer(
        self, prompt_ids: Sequence[int], *, skip_special_tokens: bool = True
    ) -> ByteDetokenizer:
        return ByteDetokenizer()


class AnyGrammar:
    """Takes every grammar but some, and remembers what it was shown."""

    def __init__(self, reason: str | None = None) -> None:
        self.reason = reason
        self.seen: list[str] = []

    def refusal(self, grammar: str) -> str | None:
        self.seen.append(grammar)
        return self.reason


def batch(text: str | bytes, reason: FinishReason | None = None) -> TokenBatch:
    return TokenBatch(tuple(text.encode() if isinstance(text, str) else text), reason)


def says(*pieces: str | bytes, reason: FinishReason = "stop") -> Script:
    """The same pieces for every request, one a step, the last with the reason."""
    return lambda _: [*map(batch, pieces[:-1]), batch(pieces[-1], reason)]


def echoes(request: GenerationRequest) -> Iterable[Step]:
    """The prompt, so that choices can be told apart."""
    return [TokenBatch(request.token_ids, None), TokenBatch((), "length")]


class ScriptedStream:
    """Plays one script: gives batches, raises errors, waits for events."""

    def __init__(self, steps: Iterable[Step]) -> None:
        self._steps: Iterator[Step] = iter(steps)
        self.began = asyncio.Event()
        self.closed = asyncio.Event()

    def __aiter__(self) -> "ScriptedStream":
        return self

    async def __anext__(self) -> TokenBatch:
        self.began.set()
        for step in self._steps:
            if isinstance(step, Exception):
                raise step
            if isinstance(step, TokenBatch):
                await asyncio.sleep(0)  # tokens come over a wire: others have a turn
                return step
            async with asyncio.timeout(PATIENCE_S):
                await step.wait()
        raise StopAsyncIteration

    async def aclose(self) -> None:
        self.closed.set()


@dataclass
class ScriptedBackend:
    """Takes every request; with a `refusal`, only `max_requests` of them."""

    script: Script = field(default_factory=lambda: says("hello"))
    refusal: Exception | None = None
    max_requests: int = 0
    missing: str | None = None
    served: dict[str, Any] = field(default_factory=lambda: {"epoch": 7})
    requests: list[GenerationRequest] = field(default_factory=list)
    streams: list[ScriptedStream] = field(default_factory=list)
    submitted: asyncio.Event = field(default_factory=asyncio.Event)

    def submit(self, request: GenerationRequest) -> ScriptedStream:
        if self.refusal is not None and len(self.requests) >= self.max_requests:
            raise self.refusal
        self.requests.append(request)
        self.streams.append(ScriptedStream(self.script(request)))
        self.submitted.set()
        return self.streams[-1]

    def not_ready_reason(self) -> str | None:
        return self.missing

    def plan(self) -> dict[str, Any]:
        return self.served

    async def status(self) -> dict[str, Any]:
        return self.served


REPORT = ChangeReport(
    done=True,
    reason="",
    epoch=8,
    phases=(Phase("prepare", 0.5, 0), Phase("copy", 0.25, 1_500_000)),
    moves=("layers 5:7 from a to b",),
)


@dataclass
class ScriptedOperator:
    """Takes every order and answers with the same report, or with a refusal."""

    report: ChangeReport = REPORT
    refusal: Exception | None = None
    can_disturb: bool = True
    plan: dict[str, Any] = field(default_factory=lambda: {"pipelines": []})
    steps: dict[str, Any] = field(default_factory=dict)
    taken: list[Any] = field(default_factory=list)
    running: list[dict[str, Any]] = field(default_factory=list)
    killable: list[str] = field(default_factory=list)
    link_ends: list[str] = field(default_factory=lambda: ["node:a", "node:b", "node:c"])

    def _take(self, order: Any) -> ChangeReport:
        self.taken.append(order)
        if self.refusal is not None:
            raise self.refusal
        return self.report

    async def change_plan(self, wish: PlanWish) -> ChangeReport:
        return self._take(wish)

    async def present_plan(self) -> dict[str, Any]:
        self._take("plan")
        return dict(self.plan)

    async def measured_steps(self) -> dict[str, Any]:
        self._take("steps")
        return self.steps

    async def drain(self, node: str, deadline_s: float) -> ChangeReport:
        return self._take((node, deadline_s))

    async def flip(self, wish: FlipWish) -> ChangeReport:
        return self._take(wish)

    async def move(self, request: str, pipeline: str) -> ChangeReport:
        return self._take((request, pipeline))

    async def fault(self, fault: LinkFault) -> None:
        if not self.can_disturb:
            raise Unsupported("links cannot be disturbed here")
        self._take(fault)

    async def fault_targets(self) -> list[str]:
        if not self.can_disturb:
            raise Unsupported("links cannot be disturbed here")
        return self.link_ends

    async def kill(self, target: str) -> None:
        self._take(target)

    def kill_targets(self) -> list[str]:
        return self.killable

    def requests(self) -> list[dict[str, Any]]:
        return self.running


@dataclass(frozen=True)
class Reply:
    status: int
    headers: dict[str, str]
    body: Any

    @property
    def error(self) -> dict[str, Any]:
        """The error in OpenAI's shape: exactly these four fields, of these types."""
        assert set(self.body) == {"error"}
        found: dict[str, Any] = self.body["error"]
        assert set(found) == {"message", "type", "param", "code"}
        assert all(isinstance(found[key], str) for key in ("message", "type"))
        assert all(found[key] is None or isinstance(found[key], str) for key in ("param", "code"))
        return found


class Client:
    """Speaks plain HTTP to one gateway."""

    def __init__(self, session: aiohttp.ClientSession, port: int) -> None:
        self._session = session
        self.port = port
        self.url = f"http://127.0.0.1:{port}"

    async def send(self, method: str, path: str, **options: Any) -> Reply:
        async with self._session.request(method, self.url + path, **options) as answer:
            return Reply(answer.status, dict(answer.headers), await answer.json())

    async def get(self, path: str) -> Reply:
        return await self.send("GET", path)

    async def text(self, path: str, **options: Any) -> str:
        async with self._session.get(self.url + path, **options) as answer:
            assert answer.status == 200
            return await answer.text()

    async def head_of(self, method: str, path: str, **options: Any) -> Reply:
        """An answer without its body, which need not be JSON."""
        async with self._session.request(method, self.url + path, **options) as answer:
            return Reply(answer.status, dict(answer.headers), None)

    async def complete(self, **body: Any) -> Reply:
        return await self.send("POST", COMPLETIONS, json=completion(**body))

    async def chat(self, **body: Any) -> Reply:
        return await self.send("POST", CHAT, json=chat(**body))

    async def events(self, path: str, body: dict[str, Any]) -> list[Any]:
        """The data of every event of a streamed answer; the mark at the end as a string."""
        async with self._session.post(self.url + path, json=body | {"stream": True}) as answer:
            assert answer.status == 200, await answer.text()
            assert answer.content_type == "text/event-stream"
            text = (await answer.read()).decode()
        lines = [event.removeprefix("data: ") for event in text.split("\n\n") if event]
        return [line if line == "[DONE]" else json.loads(line) for line in lines]


def completion(**body: Any) -> dict[str, Any]:
    return {"model": MODEL.name, "prompt": "Once", **body}


def chat(**body: Any) -> dict[str, Any]:
    return {"model": MODEL.name, "messages": [{"role": "user", "content": "Hi"}], **body}


@asynccontextmanager
async def gateway(
    backend: Backend,
    *,
    tokenizer: Tokenizer | None = None,
    limits: Limits | None = None,
    operator: Operator | None = None,
    model: ModelFacts = MODEL,
    grammars: GrammarCheck | None = None,
    patience_s: float = PATIENCE_S,
    safeguards: Safeguards | None = None,
    connections: ConnectionLimits | None = None,
) -> AsyncIterator[Client]:
    app = create_apps(
        backend,
        tokenizer or ByteTokenizer(),
        model,
        grammars=grammars or AnyGrammar(),
        version="1.2.3",
        limits=limits,
        rng=random.Random(7),
        operator=operator,
        clock=lambda: NOW,
        safeguards=safeguards,
    ).together()
    timeout = aiohttp.ClientTimeout(total=patience_s)
    async with (
        serving(app, "127.0.0.1", 0, limits=connections) as port,
        aiohttp.ClientSession(timeout=timeout) as session,
    ):
        yield Client(session, port)
