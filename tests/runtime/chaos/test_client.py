"""A stream as a chaos client sees it, to whatever end it comes."""

import pytest

from runtime.chaos.client import Patience, ask
from runtime.chaos.load import Ask
from runtime.chaos.outcome import Outcome
from runtime.control.service import CommandFailed
from tests.runtime.chaos.plain import DONE, WHOLE, PlainService, Sent, chunk, event, plain, usage

ASKED = Ask(prompt="a list", temperature=0.0, seed=7, max_tokens=2)
PATIENCE = Patience(silence_s=10.0, stream_s=20.0, settle_s=5.0)
FAILURE = b'event: error\ndata: {"error": {"message": "stage 1 was lost"}}\n\n'


async def seen(
    *answers: Sent, asks_again: bool = False, patience: Patience = PATIENCE
) -> tuple[Outcome, PlainService]:
    service = PlainService(list(answers))
    async with plain(service) as site:
        return await ask(site, "demo", ASKED, patience, asks_again=asks_again), service


async def test_a_whole_stream_is_its_text_its_tokens_and_its_comments() -> None:
    data = chunk("one ") + b": recovered stage=1 gap_ms=8\n\n" + WHOLE[len(chunk("one ")) :]
    outcome, service = await seen(Sent(data))
    assert (outcome.text, outcome.num_tokens, outcome.error) == ("one two", 2, "")
    assert outcome.recoveries == ["recovered stage=1 gap_ms=8"]
    assert len(outcome.gaps_s) == 3
    assert service.bodies == [ASKED.body("demo")]


async def test_whoever_counts_hears_of_every_text() -> None:
    heard: list[int] = []
    async with plain(PlainService([Sent(WHOLE)])) as site:
        await ask(site, "demo", ASKED, PATIENCE, on_text=heard.append)
    assert heard == [1, 2]


@pytest.mark.parametrize(
    ("sent", "error"),
    [
        (Sent(chunk("one ") + FAILURE, "cut"), "error event: stage 1 was lost"),
        (Sent(chunk("one ") + b"event: error\ndata: oh\n\n"), "error event: oh"),
        (Sent(b'{"error": {"message": "full"}}', status=429), "429: full"),
        (Sent(b"<html>", status=502), "502: <html>"),
        (Sent(chunk("one "), "cut"), "the connection broke: "),
        (Sent(chunk("one ")), "it ended in silence"),
        (Sent(b""), "it ended in silence"),
        (Sent(chunk("one ") + usage(1) + DONE), "it ended without a finish reason"),
        (Sent(event(b"{")), "it sent an event that is no chunk"),
        (Sent(event([1])), "it sent an event that is no chunk"),
        (Sent(b"data: \xff\n\n"), "it sent an event that is not UTF-8"),
    ],
)
async def test_a_stream_that_fails_says_how(sent: Sent, error: str) -> None:
    outcome, _ = await seen(sent)
    assert outcome.error.startswith(error)


async def test_what_came_before_a_failure_is_kept() -> None:
    outcome, _ = await seen(Sent(chunk("one ") + FAILURE))
    assert outcome.text == "one "


async def test_a_stream_that_falls_silent_is_given_up() -> None:
    silent = Sent(chunk("one "), "open")
    outcome, _ = await seen(silent, patience=Patience(silence_s=0.05))
    assert outcome.error.startswith("the connection broke: ")
    outcome, _ = await seen(silent, patience=Patience(stream_s=0.05))
    assert outcome.error == "it had not ended after 0.05 s"


async def test_a_cut_stream_is_asked_for_again_where_the_gateway_was_struck() -> None:
    outcome, service = await seen(Sent(chunk("one "), "cut"), Sent(WHOLE), asks_again=True)
    assert (outcome.text, outcome.earlier, outcome.error) == ("one two", ["one "], "")
    assert len(service.bodies) == 2


async def test_an_error_of_the_service_is_final_even_then() -> None:
    outcome, service = await seen(Sent(chunk("one ") + FAILURE, "cut"), asks_again=True)
    assert outcome.error == "error event: stage 1 was lost"
    assert len(service.bodies) == 1


async def test_a_service_that_does_not_come_back_is_the_failure_of_its_streams() -> None:
    service = PlainService([Sent(b"", "cut")], health=[(503, {"reason": "no plan"})])
    async with plain(service) as site:
        outcome = await ask(site, "demo", ASKED, Patience(settle_s=0.05), asks_again=True)
    assert outcome.error == "not ready within 0.05 s: no plan"


async def test_a_service_is_waited_for_until_it_is_ready() -> None:
    service = PlainService([], health=[(503, {}), (200, {})])
    async with plain(service) as site:
        await site.wait_ready(5.0)
    assert len(service.health) == 1


async def test_one_that_is_gone_is_not_ready() -> None:
    async with plain(PlainService([])) as site:
        pass
    async with plain(PlainService([])) as other:
        site.session = other.session
        with pytest.raises(CommandFailed, match=r"not ready within 0\.05 s: no Remuda service"):
            await site.wait_ready(0.05)


@pytest.mark.parametrize("body", [b"<html>", [1], {}, {"model": "demo"}, None])
async def test_an_answer_that_is_no_status_is_refused(body: object) -> None:
    async with plain(PlainService([], other=body)) as site:
        with pytest.raises(CommandFailed, match="no Remuda service answers"):
            await site.status()


@pytest.mark.parametrize("body", [b"<html>", [1], {}, {"data": []}, {"data": [{}]}])
async def test_an_answer_that_names_no_model_is_refused(body: object) -> None:
    async with plain(PlainService([], other=body)) as site:
        with pytest.raises(CommandFailed, match="no Remuda service answers"):
            await site.model()
