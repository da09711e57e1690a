import asyncio
from typing import Any

import pytest

from models.checkpoint import Checkpoint
from models.demo import demo_path
from runtime import launch, launch_join, launcher
from runtime.errors import LaunchFailed
from runtime.join_token import JoinToken
from runtime.launch_plans import JoinPlan, ServicePlan
from runtime.opening import open_system
from transport.security import KeyPair


@pytest.fixture
def plans(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The plans that would have been launched."""
    seen: list[Any] = []

    async def note(plan: object) -> None:
        seen.append(plan)

    monkeypatch.setattr(launch, "launch", note)
    monkeypatch.delenv("REMUDA_TOKEN", raising=False)
    return seen


def fail_with(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    async def fail(plan: object) -> None:
        raise error

    monkeypatch.setattr(launch, "launch", fail)


def test_flags_are_short_for_keys_and_set_wins_over_them(plans: list[Any]) -> None:
    arguments = ["--port", "0", "--stages", "2", "--insecure", "--token", "t", "--node-id", "n"]
    assert launch.main([*arguments, "--set", "num_stages=3"]) == 0
    (plan,) = plans
    assert isinstance(plan, ServicePlan)
    assert (plan.token, plan.node) == ("t", "n")
    assert (plan.config.http.port, plan.config.num_stages) == (0, 3)
    assert plan.config.cluster.insecure is True
    assert plan.config.cluster.auto is False


def test_plans_are_changed_by_themselves_where_that_is_asked_for(plans: list[Any]) -> None:
    assert launch.main(["--auto", "--set", "cluster.auto_min_gain=0.3"]) == 0
    assert plans[0].config.cluster.auto is True
    assert plans[0].config.cluster.auto_min_gain == 0.3


@pytest.mark.parametrize(
    ("address", "host", "port"),
    [("10.0.0.5:7000", "10.0.0.5", 7000), ("[::1]:7", "::1", 7), ("box:65535", "box", 65535)],
)
def test_a_join_takes_an_address_a_token_and_a_name(
    plans: list[Any], address: str, host: str, port: int
) -> None:
    assert launch.main(["--join", address, "--token", "t", "--node-id", "b"]) == 0
    assert plans == [JoinPlan(host=host, port=port, token="t", node="b", insecure=False)]


def test_a_join_may_say_which_model_this_machine_has(
    plans: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--join", "h:1", "--token", "t"]
    assert launch.main([*arguments, "--model", "demo"]) == 0
    assert plans[0].model_hash == Checkpoint.open(demo_path()).content_hash
    assert launch.main([*arguments, "--model", "/no/such/model"]) == 1
    assert "/no/such/model" in capsys.readouterr().err


def test_a_join_without_a_name_makes_one_that_no_other_process_has(plans: list[Any]) -> None:
    assert launch.main(["--join", "h:1", "--token", "t"]) == 0
    assert plans[0].node.rpartition("-")[2].isdigit()


def test_the_token_may_come_by_the_environment(
    plans: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REMUDA_TOKEN", "secret")
    assert launch.main(["--join", "h:1"]) == 0
    assert plans[0].token == "secret"


def test_a_join_without_a_token_says_where_to_get_it(
    plans: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert launch.main(["--join", "h:1"]) == 1
    assert "needs --token" in capsys.readouterr().err
    assert plans == []


@pytest.mark.parametrize("address", ["h", "h:", ":1", "h:x", "h:0", "h:65536", "h:²", "::1:7"])
def test_a_join_address_of_another_form_is_refused(
    plans: list[Any], address: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert launch.main(["--join", address, "--token", "t"]) == 1
    assert f"expected HOST:PORT, got {address!r}" in capsys.readouterr().err
    assert plans == []


@pytest.mark.parametrize(
    "more",
    [
        ["--check"],
        ["--stages", "2"],
        ["c.toml"],
        ["--set", "a=1"],
        ["--port", "0"],
        ["--auto"],
        ["--otlp-endpoint", "http://c"],
    ],
)
def test_a_join_refuses_what_only_a_service_has(
    plans: list[Any], more: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        launch.main(["--join", "h:1", "--token", "t", *more])
    assert ended.value.code == 2
    assert "cannot go with it" in capsys.readouterr().err
    assert plans == []


def test_a_failed_launch_ends_with_its_reason_on_one_last_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fail_with(monkeypatch, LaunchFailed("stage 0 could not start:\nno memory"))
    assert launch.main(["--port", "0"]) == 1
    assert capsys.readouterr().err == "error: stage 0 could not start: no memory\n"


def test_a_bug_of_ours_shows_its_traceback_and_still_ends_with_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fail_with(monkeypatch, ExceptionGroup("tasks", [ExceptionGroup("more", [KeyError("x")])]))
    assert launch.main(["--port", "0"]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert any("Traceback" in line for line in lines)
    assert lines[-1] == "error: this is a bug: KeyError('x')"


def test_an_interrupt_before_anything_started_is_no_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(config: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(launch, "check_launch", interrupt)
    assert launch.main([]) == 130
    assert capsys.readouterr().err == "error: interrupted before anything was started\n"


def test_nobody_at_the_address_to_join_is_said_with_what_was_expected(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(launch_join, "CONNECT_TIMEOUT_S", 0.2)
    assert launch.main(["--join", "127.0.0.1:9", "--token", "t"]) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert "cannot join 127.0.0.1:9: nobody answered" in last
    assert "expected a launcher that prints this cluster address" in last


def test_a_join_over_an_open_network_must_be_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch_join, "address_towards", lambda host, port: "192.0.2.7")
    plan = JoinPlan(host="192.0.2.1", port=1, token="t", node="n", insecure=False)
    with pytest.raises(LaunchFailed, match=r"reached at 192\.0\.2\.7.*--insecure"):
        asyncio.run(launcher.launch(plan))


@pytest.mark.parametrize("seconds", ["1.9", "86401", "nan"])
def test_a_hang_timeout_out_of_bounds_is_refused_when_joining(
    seconds: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--join", "127.0.0.1:1", "--token", "t", "--hang-timeout", seconds]
    assert launch.main(words) == 1
    assert "--hang-timeout: expected 2 to 86400 seconds" in capsys.readouterr().err


def test_a_hang_timeout_out_of_bounds_is_refused_when_launching(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert launch.main(["--check", "--hang-timeout", "1"]) == 1
    assert "hang_timeout_s" in capsys.readouterr().err


def test_a_slower_device_is_played_by_the_machine_that_is_told_to(
    plans: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    join = ["--join", "127.0.0.1:1", "--token", "t"]
    assert launch.main(["--emulated-speed", "0.5"]) == 0
    assert launch.main([*join, "--emulated-speed", "0.25"]) == 0
    assert launch.main(join) == 0
    service, joined, usual = plans
    assert service.config.cluster.emulated_speed == 0.5
    assert (joined.emulated_speed, usual.emulated_speed) == (0.25, 1.0)
    for speed in ("0", "1.5", "nan"):
        assert launch.main([*join, "--emulated-speed", speed]) == 1
        assert "--emulated-speed: expected above 0 and 1 at most" in capsys.readouterr().err
        assert launch.main(["--emulated-speed", speed]) == 1
        assert "emulated_speed" in capsys.readouterr().err


async def test_a_join_to_another_model_or_with_an_old_key_is_refused_with_the_difference(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(launch_join, "CONNECT_TIMEOUT_S", 10.0)
    keys, old = KeyPair.fresh(), KeyPair.fresh()
    token = JoinToken("t", keys.public)
    async with open_system(
        "coordinator", "127.0.0.1", 0, token.text, keys=keys, model_hash="a"
    ) as system:
        port = int(system.local_ref("coordinator").address.rpartition(":")[2])
        for text, model_hash, reason in (
            (token.text, "b", r"model is '[ab]', expected '[ab]'"),
            (JoinToken("t", old.public).text, "a", r"own the key|may have been rotated"),
            ("t", "a", "one end has CURVE encryption on"),
            (JoinToken("guessed", keys.public).text, "a", "this cluster's token"),
        ):
            plan = JoinPlan(
                host="127.0.0.1",
                port=port,
                token=text,
                node="n",
                insecure=False,
                model_hash=model_hash,
            )
            with pytest.raises(LaunchFailed, match=rf"cannot join .*({reason}).*compare --join"):
                await launcher.launch(plan)
