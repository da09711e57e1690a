import pytest

from benchmarks.simulator import CLUSTER, Speed, job_of, main, measure, table_of


def test_a_measurement_counts_the_steps_of_every_stage() -> None:
    speed = measure(job_of(CLUSTER, rate=5.0, duration_s=0.5, seed=0))
    assert speed.num_requests == len(job_of(CLUSTER, 5.0, 0.5, 0).arrivals)
    assert speed.num_stage_steps >= 4 * speed.num_requests
    assert speed.simulated_s > 0
    assert speed.cpu_s > 0


def test_a_speed_is_told_by_step_and_by_simulated_second() -> None:
    speed = Speed(num_requests=1, num_stage_steps=1000, simulated_s=30.0, cpu_s=0.1, clock_s=0.2)
    assert speed.stage_step_us == pytest.approx(100.0)
    assert speed.ratio == pytest.approx(300.0)
    cells = [list(column.cells) for column in table_of([speed], "here").columns]
    assert cells[-2:] == [["100.0"], ["300.0×"]]


def test_the_command_prints_a_line_for_each_round(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--duration", "0.5", "--rounds", "2"]) == 0
    assert capsys.readouterr().out.count("×") == 2


def test_a_load_without_requests_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--duration", "0.001"]) == 1
    assert "no request comes within 0.001 s" in capsys.readouterr().err
