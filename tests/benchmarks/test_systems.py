import sys
from pathlib import Path

import pytest

from benchmarks.checkpoint import VOCAB_SIZE
from benchmarks.idle import TARGET, StageLoad, table_of, watched_stages
from benchmarks.load import Target, keep_busy, send_burst
from benchmarks.prompts import make_prompts
from benchmarks.service import get_json, running_service, stages_of
from benchmarks.systems import Burst, Peer, Unavailable
from models.demo import demo_path


def test_prompts_are_the_same_at_one_seed_and_hold_no_special_token() -> None:
    prompts = make_prompts(3, 50, VOCAB_SIZE, seed=1)
    assert prompts == make_prompts(3, 50, VOCAB_SIZE, seed=1)
    assert prompts != make_prompts(3, 50, VOCAB_SIZE, seed=2)
    assert [len(prompt) for prompt in prompts] == [50] * 3
    assert all(3 <= token < VOCAB_SIZE for prompt in prompts for token in prompt)


def test_a_peer_answers_bursts_from_a_process_of_its_own() -> None:
    arguments = ["--threads", "1", "--vocab", "200"]
    with Peer("transformers", sys.executable, str(demo_path()), arguments) as peer:
        assert peer.run(Burst(2, 8, 4, seed=0)) > 0
        assert peer.run(Burst(1, 8, 4, seed=1)) > 0


@pytest.mark.parametrize("system", ["vllm", "vllm-pp2", "llama.cpp"])
def test_a_peer_whose_package_is_not_there_says_so(system: str) -> None:
    with pytest.raises(Unavailable, match="ModuleNotFoundError"), Peer(system, sys.executable, "x"):
        pytest.fail("it is there")


async def test_a_live_service_takes_bursts_and_shows_what_its_stages_do() -> None:
    with running_service("--model", "demo", "--stages", "2") as url:
        name = get_json(f"{url}/v1/models")["data"][0]["id"]
        target = Target(url=url, model=name, new=6)
        with watched_stages(stages_of(url)) as loads:
            burst = await send_burst(target, make_prompts(3, 8, 200))
        steady = await keep_busy(Target(url=url, model=name, new=2, vocab=200), 2, 8, seconds=0.0)
        assert steady.tokens == 4
        assert burst.tokens == 18
        assert len(burst.first_s) == 3
        assert burst.rate == 18 / burst.seconds
        assert [load.stage for load in loads] == [0, 1]
        assert all(load.ran > 0 for load in loads)


def test_a_service_that_cannot_start_says_why(tmp_path: Path) -> None:
    with (
        pytest.raises(SystemExit, match="did not start"),
        running_service("--model", str(tmp_path)),
    ):
        pytest.fail("it started")


@pytest.mark.parametrize(("ran", "verdict"), [(0.9, "met"), (0.5, "missed")])
def test_waiting_for_a_core_is_not_idleness(ran: float, verdict: str) -> None:
    load = StageLoad(stage=0, ran=ran, queued=0.05, others=0.0)
    assert load.idle == pytest.approx(0.95 - ran)
    cells = [next(iter(column.cells)) for column in table_of([load], "a test").columns]
    assert cells[-1] == f"≤ {TARGET:.0%} {verdict}"
