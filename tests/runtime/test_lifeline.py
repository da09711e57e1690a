import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.support.services import CHECKOUT

PARENT = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", sys.argv[1]], stdin=subprocess.PIPE)
print("child", child.pid, flush=True)
time.sleep(60)
"""

BOUND = """
import sys, time
from runtime.lifeline import die_with_parent
die_with_parent()
print("bound", flush=True)
time.sleep(60)
"""

WATCHING = """
import asyncio
from runtime.lifeline import watch_parent
async def main():
    gone = asyncio.Event()
    unwatch = watch_parent(gone.set)
    print("watching", flush=True)
    await gone.wait()
    unwatch()
    print("parent is gone", flush=True)
asyncio.run(main())
"""


@contextmanager
def family(child: str) -> Iterator["subprocess.Popen[str]"]:
    """A parent that starts this child; both write to the one pipe, whose end is their end."""
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, child], stdout=subprocess.PIPE, text=True, cwd=CHECKOUT
    )
    with parent:
        try:
            yield parent
        finally:
            parent.kill()


def first_lines(process: "subprocess.Popen[str]", count: int) -> list[str]:
    assert process.stdout is not None
    return sorted(process.stdout.readline().strip() for _ in range(count))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the kernel's signal is Linux's")
def test_the_kernel_kills_a_child_with_its_parent_even_if_it_reads_nothing() -> None:
    with family(BOUND) as parent:
        bound, child = first_lines(parent, 2)
        assert (bound, child.split()[0]) == ("bound", "child")
        parent.kill()
        assert parent.stdout is not None
        assert parent.stdout.read() == ""  # the pipe ends only when the child too is gone


def test_a_child_reads_the_end_of_its_input_when_its_parent_dies() -> None:
    with family(WATCHING) as parent:
        first_lines(parent, 2)
        parent.kill()
        assert parent.stdout is not None
        assert parent.stdout.read() == "parent is gone\n"


def test_what_a_parent_goes_on_writing_is_no_end() -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", WATCHING],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=CHECKOUT,
    )
    with child:
        assert child.stdin is not None
        assert child.stdout is not None
        assert child.stdout.readline() == "watching\n"
        child.stdin.write("still here\n")
        child.stdin.flush()
        child.stdin.close()
        assert child.stdout.read() == "parent is gone\n"
        assert child.wait(10) == 0
