"""Processes that tests start, and that nothing of them may stay."""

import contextlib
import os
import re
import signal
import time
from pathlib import Path

import pytest


@pytest.fixture
def session():
    """session(leader): the processes of a session that have not ended, the leader too.

    At the end those that were asked for are ended, and nothing of theirs may be left in shared memory.
    """
    shared, asked = _shared(), set()

    def living(leader: int) -> list[int]:
        asked.add(leader)
        return [int(path.parent.name) for path in Path("/proc").glob("[0-9]*/stat") if _lives_in(path, leader)]

    yield living
    for leader in list(asked):
        for pid in living(leader):
            os.kill(pid, signal.SIGKILL)
    left, end = _shared() - shared, time.monotonic() + 30
    while left := (left & _shared()) - _in_use():
        assert time.monotonic() < end, left
        time.sleep(0.05)


def _shared() -> set[str]:
    """Names in shared memory as multiprocessing and torch make them; other programs' are none of ours."""
    return {name for name in os.listdir("/dev/shm") if name.startswith(("sem.mp-", "psm_", "torch_", "mp-"))}


def _in_use() -> set[str]:
    """Names in shared memory that living processes have in theirs: of what runs beside this test."""
    names = set()
    for path in Path("/proc").glob("[0-9]*/maps"):
        with contextlib.suppress(OSError):
            names |= set(re.findall(r" /dev/shm/(\S+)", path.read_text()))
    return names


def _lives_in(path: Path, leader: int) -> bool:
    try:
        state, _, _, session = path.read_text().rpartition(")")[2].split()[:4]
    except OSError:
        return False
    return int(session) == leader and state != "Z"
