"""The benchmark of shared beginnings: what is sent to whom, and what is told of it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from benchmarks import prefixes
from benchmarks.load import Burst, Target
from benchmarks.prefixes import NUM_WARM_UP, Round, Wish, measure, prompts_of, table_of

WISH = Wish(common=40, own=4, rounds=4)


def test_prompts_begin_alike_and_no_two_are_the_same() -> None:
    prompts = prompts_of(WISH)
    assert len(prompts) == NUM_WARM_UP + 4
    assert {tuple(prompt[:40]) for prompt in prompts} == {tuple(prompts[0][:40])}
    assert len({tuple(prompt) for prompt in prompts}) == len(prompts)
    assert {len(prompt) for prompt in prompts} == {44}


def target(name: str) -> Target:
    return Target(url=name, model="m", new=1)


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, list[int]]]:
    """What was sent to whom; the sharing service takes 1 s for a first token, the other 4 s."""
    found: list[tuple[str, list[int]]] = []

    async def send(to: Target, prompts: list[list[int]]) -> Burst:
        found.extend((to.url, prompt) for prompt in prompts)
        return Burst(first_s=[1.0 if to.url == "shared" else 4.0])

    monkeypatch.setattr(prefixes, "send_burst", send)
    return found


async def test_both_get_each_prompt_and_who_goes_first_alternates(
    sent: list[tuple[str, list[int]]],
) -> None:
    rounds = await measure(WISH, target("shared"), target("alone"))
    assert rounds == [Round(shared_s=1.0, alone_s=4.0)] * 4
    names = [name for name, _ in sent]
    assert names[:4] == ["shared", "alone", "alone", "shared"]
    assert [prompt for name, prompt in sent if name == "shared"] == prompts_of(WISH)
    assert [prompt for name, prompt in sent if name == "alone"] == prompts_of(WISH)


def test_the_table_tells_the_median_of_the_ratios_and_their_spread() -> None:
    pairs = [(1.0, 4.0), (1.0, 2.0), (3.0, 4.0)]
    rounds = [Round(shared_s=shared, alone_s=alone) for shared, alone in pairs]
    cells = [next(iter(column.cells)) for column in table_of(WISH, rounds, 0.9).columns]
    assert cells == ["1000.0", "4000.0", "0.500×", "0.250–0.750", "90.0%"]


def test_one_service_shares_and_the_other_does_not(
    sent: list[tuple[str, list[int]]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    started: list[tuple[str, ...]] = []

    @contextmanager
    def service(*arguments: str) -> Iterator[str]:
        started.append(arguments)
        yield "shared" if "serving.prefix_sharing=true" in arguments else "alone"

    def status(url: str) -> dict[str, Any]:
        assert url == "shared/admin/status"
        return {"prefix": {"queries": 200, "hits": 150}}

    monkeypatch.setattr(prefixes, "running_service", service)
    monkeypatch.setattr(prefixes, "get_json", status)
    prefixes.main(["--rounds", "3", "--common", "32"])
    assert len(started) == 2
    assert "serving.prefix_sharing=false" in started[1]
    assert {name for name, _ in sent} == {"shared", "alone"}
    told = capsys.readouterr().out
    assert "0.250×" in told
    assert "75.0%" in told
