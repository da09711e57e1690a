import pytest

from benchmarks.weights import WAYS, main
from models.demo import demo_path


def test_it_loads_in_every_way_and_says_how_long_each_took(
    capsys: pytest.CaptureFixture[str],
) -> None:
    main(["--model", str(demo_path()), "--layers", "0:2", "--rounds", "1"])
    shown = capsys.readouterr().out
    rows = {line.split()[0]: line.split()[1:] for line in shown.splitlines() if line.split()}
    for way in WAYS:
        assert len(rows[way]) == 4
    assert rows["cold"][-1] == "1.00×"
