"""Every operation of the service: what it is for, what it takes, how it may end."""

from dataclasses import dataclass, field
from typing import Any

from runtime.gateway.access import scope_of
from runtime.gateway.endpoints import CHAT, COMPLETIONS, DETOKENIZE, TOKENIZE
from runtime.gateway.input_schemas import Schema
from runtime.gateway.openapi.answers import ref
from runtime.gateway.openapi.failures import (
    ANY,
    BODY,
    GENERATION,
    KEY,
    ORDER,
    TOKENIZING,
    WATCHING,
    failures,
)
from runtime.gateway.openapi.requests import body_schema, order_schema
from runtime.gateway.orders import ORDERS
from runtime.gateway.parameters import Endpoint
from runtime.gateway.watching import DEFAULT_EVENTS, MAX_EVENTS, METRICS_TYPE

Json = dict[str, Any]


DISTURBANCES = frozenset({"/admin/fault", "/admin/kill"})
"""Orders that are answered with no report: that they are over is all there is to say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One method of one path.

    Attributes:
        method: in small letters, as in the document.
        path: with its variables in braces.
        summary: what it is for.
        answers: schema by media type, of a 200.
        body: schema of the request, if it has one.
        parameters: of path, query and headers.
        fails: the statuses it may fail with, beside those of all.
        others: answers of other statuses that are no errors, status to schema.
    """

    method: str
    path: str
    summary: str
    answers: dict[str, Schema]
    body: Schema | None = None
    parameters: tuple[Json, ...] = ()
    fails: tuple[int, ...] = ()
    others: dict[int, Schema] = field(default_factory=dict)

    def json(self) -> Json:
        """Its entry in the document."""
        scope = scope_of(self.path)
        of_body = BODY if self.body is not None else ()
        of_key = KEY if scope is not None else ()
        fails = {*ANY, *of_body, *of_key, *self.fails}
        described = {"description": self.summary, "content": _content(self.answers)}
        responses: Json = {"200": described, **failures(fails - self.others.keys())}
        for status, schema in self.others.items():
            content = _content({"application/json": schema})
            responses[str(status)] = {"description": "it was not done", "content": content}
        made: Json = {
            "summary": self.summary,
            "operationId": self._id(),
            "tags": [scope or "open"],
            "responses": responses,
            # Either is enough: a service without keys asks for none.
            "security": [{}] if scope is None else [{"apiKey": []}, {}],
        }
        if self.body is not None:
            content = {"application/json": {"schema": self.body}}
            made["requestBody"] = {"required": True, "content": content}
        return made | ({"parameters": list(self.parameters)} if self.parameters else {})

    def _id(self) -> str:
        words = self.path.replace("{", "").replace("}", "").replace(".", "/").split("/")
        return "_".join([self.method, *(word for word in words if word)])


def _content(by_type: dict[str, Schema]) -> Json:
    return {media: {"schema": schema} for media, schema in by_type.items()}


def _json(name: str) -> dict[str, Schema]:
    return {"application/json": ref(name)}


def _events(of: str) -> Schema:
    said = f"server-sent events; the data of each is a {of}, of the last it is [DONE]"
    return {"type": "string", "description": said}


def operations(model: str) -> tuple[Operation, ...]:
    """All of them, for a service of that model; the operator's included."""
    return (*_generating(model), *_telling(model), *_watching(), *_orders())


def _generating(model: str) -> tuple[Operation, ...]:
    def streams(endpoint: Endpoint, summary: str, answer: str) -> Operation:
        answers = _json(answer) | {"text/event-stream": _events(f"{answer}Chunk")}
        body = body_schema(endpoint, model)
        return _post(endpoint.path, summary, answers, body, (*GENERATION, *TOKENIZING))

    return (
        streams(COMPLETIONS, "Continue prompts", "Completion"),
        streams(CHAT, "Answer a chat", "ChatCompletion"),
    )


def _telling(model: str) -> tuple[Operation, ...]:
    known: Json = {"name": "id", "in": "path", "required": True, "schema": {"type": "string"}}
    tokenize, detokenize = body_schema(TOKENIZE, model), body_schema(DETOKENIZE, model)
    fails = (404, *TOKENIZING)
    health = {503: ref("Health")}
    return (
        _get("/v1/models", "The model, as a list", _json("Models")),
        _get("/v1/models/{id}", "The model", _json("Model"), (known,), fails=(404,)),
        _post("/tokenize", "A text or a chat as token ids", _json("Tokens"), tokenize, fails),
        _post("/detokenize", "Token ids as a text", _json("Text"), detokenize, fails),
        _get("/tokenizer_info", "What clients may know of it", _json("TokenizerInfo")),
        _get("/health", "Whether every stage is ready", _json("Health"), others=health),
        _get("/ready", "Whether every stage is ready", _json("Health"), others=health),
        _get("/version", "The version of the service", _json("Version")),
        _get("/openapi.json", "This document", _json("Document")),
    )


def _watching() -> tuple[Operation, ...]:
    number = {"type": "string", "pattern": "^[0-9]{1,15}$"}

    def given(where: str, name: str, said: str) -> Json:
        return {"name": name, "in": where, "schema": number, "description": said}

    of_events = (
        given("query", "after", "those with greater numbers; 0 unless said"),
        given("query", "limit", f"so many; {DEFAULT_EVENTS} unless said, {MAX_EVENTS} at most"),
        given("header", "Last-Event-ID", "as `after`, of a stream that is taken up again"),
    )
    text = METRICS_TYPE.partition(";")[0]
    events = _json("Events") | {"text/event-stream": _events("fact; there is no last")}
    return (
        _get("/metrics", "Metrics for Prometheus", {text: {"type": "string"}}),
        _get("/admin/events", "What happened lately", events, of_events, fails=WATCHING),
        _get("/admin/status", "How the service stands", _json("Status")),
        _get("/admin/requests", "The requests under way", _json("Requests")),
        _get("/admin/plan", "The plan that serves", _json("Plan"), fails=(503,)),
        _get("/admin/steps", "What steps took", _json("Steps"), fails=(503,)),
        _get("/admin/fault", "The links' ends", _json("Targets"), fails=ORDER),
    )


def _orders() -> tuple[Operation, ...]:
    """Whatever the table of orders has."""
    return tuple(_order(path, path.rpartition("/")[2]) for path in ORDERS)


def _order(path: str, name: str) -> Operation:
    body = order_schema(path)
    if path in DISTURBANCES:
        return _post(path, f"Disturb: {name}", _json("Done"), body, ORDER)
    refused = {409: ref("ChangeReport")}
    return _post(path, f"Order: {name}", _json("ChangeReport"), body, ORDER, refused)


def _get(
    path: str,
    summary: str,
    answers: dict[str, Schema],
    parameters: tuple[Json, ...] = (),
    *,
    fails: tuple[int, ...] = (),
    others: dict[int, Schema] | None = None,
) -> Operation:
    return Operation(
        method="get",
        path=path,
        summary=summary,
        answers=answers,
        parameters=parameters,
        fails=fails,
        others=others or {},
    )


def _post(
    path: str,
    summary: str,
    answers: dict[str, Schema],
    body: Schema,
    fails: tuple[int, ...],
    others: dict[int, Schema] | None = None,
) -> Operation:
    return Operation(
        method="post",
        path=path,
        summary=summary,
        answers=answers,
        body=body,
        fails=fails,
        others=others or {},
    )
