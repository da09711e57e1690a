import sys
from pathlib import Path

import pytest

from runtime import devices, memory
from runtime.errors import LaunchFailed


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine with the files of a GPU driver."""
    (tmp_path / "version").touch()
    monkeypatch.setattr(devices, "_GPU_DRIVERS", (str(tmp_path / "version"),))


async def test_without_a_driver_the_cpu_is_offered_and_nobody_is_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(devices, "_GPU_DRIVERS", ("/no/such/driver",))
    monkeypatch.setattr(devices, "_PROBE", "print(4)")
    assert await devices.list_devices() == ("cpu",)


@pytest.mark.usefixtures("driver")
async def test_every_gpu_that_torch_counts_is_offered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "_PROBE", "print(2)")
    assert await devices.list_devices() == ("cuda:0", "cuda:1")


@pytest.mark.usefixtures("driver")
@pytest.mark.parametrize("probe", ["print(0)", "raise SystemExit(1)", "print('nothing')"])
async def test_a_driver_without_a_gpu_that_works_leaves_the_cpu_with_a_warning(
    probe: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(devices, "_PROBE", probe)
    assert await devices.list_devices() == ("cpu",)
    assert "torch sees no GPU" in caplog.text


@pytest.mark.usefixtures("driver")
async def test_a_driver_that_hangs_ends_the_launch_with_a_sentence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(devices, "_PROBE", "import time; time.sleep(60)")
    monkeypatch.setattr(devices, "PROBE_TIMEOUT_S", 0.2)
    with pytest.raises(LaunchFailed, match=r"count this machine's GPUs within 0\.2 s"):
        await devices.list_devices()


def test_there_are_cores_and_there_is_memory() -> None:
    assert devices.num_cores() >= 1
    assert memory.available_bytes() > 1 << 20


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads Linux's own files")
@pytest.mark.parametrize(
    ("free", "left", "available"), [(100, None, 100), (100, 60, 60), (100, 200, 100)]
)
def test_a_containers_limit_counts_where_it_is_the_tighter(
    free: int, left: int | None, available: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "_meminfo_available", lambda: free)
    monkeypatch.setattr(memory, "_cgroup_left", lambda: left)
    assert memory.available_bytes() == available
