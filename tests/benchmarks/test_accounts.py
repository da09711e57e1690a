import os
import subprocess
import sys
import threading

import pytest

from benchmarks.machine import MachineTime, describe_machine, machine_time, resident_bytes
from benchmarks.threads import ThreadTime, busiest, process_time, thread_times

linux_only = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")


def test_what_ran_and_what_queued_are_both_busy() -> None:
    spent = ThreadTime(3.0, 2.0) - ThreadTime(1.0, 0.5)
    assert spent == ThreadTime(2.0, 1.5)
    assert spent.busy_s == 3.5


def test_the_busiest_thread_is_the_one_that_ran_most_between_the_looks() -> None:
    before = {1: ThreadTime(100.0, 0.0), 2: ThreadTime(1.0, 0.0)}
    after = {1: ThreadTime(100.5, 9.0), 2: ThreadTime(3.0, 1.0), 3: ThreadTime(0.5, 0.0)}
    assert busiest(before, after) == ThreadTime(2.0, 1.0)
    assert busiest({}, {}) == ThreadTime(0.0, 0.0)


@linux_only
def test_every_thread_of_a_process_is_counted() -> None:
    go_on = threading.Event()
    thread = threading.Thread(target=go_on.wait)
    thread.start()
    try:
        assert {os.getpid(), thread.native_id} <= set(thread_times(os.getpid()))
        assert process_time(os.getpid()).ran_s > 0
    finally:
        go_on.set()
        thread.join()


def test_a_process_that_is_not_there_has_no_threads() -> None:
    assert thread_times(2**31 - 1) == {}


def test_what_our_own_family_uses_is_not_foreign() -> None:
    before = MachineTime(clock_s=10.0, busy_s=50.0, ours_s=5.0)
    after = MachineTime(clock_s=12.0, busy_s=54.0, ours_s=8.0)
    assert after.foreign_cores_since(before) == 0.5
    assert before.foreign_cores_since(before) == 0.0


@linux_only
def test_the_time_of_a_child_that_ended_stays_ours() -> None:
    before = machine_time()
    subprocess.run([sys.executable, "-c", "sum(range(10**7))"], check=True)
    after = machine_time()
    assert after.ours_s > before.ours_s
    assert after.busy_s > before.busy_s


def test_the_machine_is_described_by_its_cores() -> None:
    assert f"{os.cpu_count()} cores" in describe_machine()


@linux_only
def test_a_process_holds_memory_until_it_is_gone() -> None:
    assert resident_bytes(os.getpid()) > 1 << 20
    assert resident_bytes(2**31 - 1) == 0
