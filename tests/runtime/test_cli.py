import sys

import pytest

from runtime.cli import COMMANDS, main


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_there_and_explains_itself(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["remuda", command, "--help"])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 0
    usage = capsys.readouterr().out.splitlines()[0]
    names = (f"usage: remuda {command} ", f"usage: python -m {COMMANDS[command]} ")
    assert usage.startswith(names)


@pytest.mark.parametrize(("arguments", "status"), [([], 2), (["dance"], 2), (["--help"], 0)])
def test_whoever_names_no_command_is_told_which_there_are(
    arguments: list[str],
    status: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["remuda", *arguments])
    assert main() == status
    told = capsys.readouterr()
    assert "simulate" in (told.err if status else told.out)
