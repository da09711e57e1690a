"""A device's threads: what keeps what waiting, and what does not."""

import asyncio
import threading
from collections.abc import Callable

from runtime.torch_device import TorchDevice

DEADLINE_S = 30.0


def waits_for(event: threading.Event) -> Callable[[], bool]:
    return lambda: event.wait(DEADLINE_S)


async def test_steps_run_in_order_and_neither_copies_nor_loading_wait_for_them() -> None:
    device, order = TorchDevice("cpu", 1), list[str]()
    may_end = threading.Event()
    async with asyncio.timeout(DEADLINE_S):
        first = device.run(waits_for(may_end))
        second = device.run(lambda: order.append("second step"))
        await device.copy(lambda: order.append("copy"))
        await device.run_beside(lambda: order.append("loading"))
        assert not first.done()
        may_end.set()
        assert await first
        await second
    assert order == ["copy", "loading", "second step"]


async def test_copies_run_in_order_and_no_step_waits_for_them() -> None:
    device, order = TorchDevice("cpu", 1), list[str]()
    may_end = threading.Event()
    async with asyncio.timeout(DEADLINE_S):
        first = device.copy(waits_for(may_end))
        second = device.copy(lambda: order.append("second copy"))
        await device.run(lambda: order.append("step"))
        assert not first.done()
        may_end.set()
        assert await first
        await second
    assert order == ["step", "second copy"]
