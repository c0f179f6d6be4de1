"""A run that hangs names the rank that holds it up, leaves every rank's stack, and ends."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from unity.train import loop
from unity.train.meeting import TEMPORARY
from unity.train.watchdog import Place, Watchdog, stuck, told

SCRIPT = Path(__file__).with_name("hang_on_ranks.py")


def place(step: int, phase: str) -> Place:
    return Place(step=step, phase=phase, host="n", since=0.0)


def test_who_is_behind_or_silent_is_stuck_and_nobody_where_all_are_alike():
    here, behind = place(7, "compute"), place(7, "read")
    assert stuck({0: here, 1: behind, 2: here}, frozenset()) == [1]
    assert stuck({0: here, 1: here, 2: place(6, "save")}, frozenset()) == [2]
    assert stuck({0: here, 1: behind, 2: here}, frozenset({2})) == [2]
    assert stuck({0: here, 1: None}, frozenset()) == [1]
    assert stuck({0: here, 1: here}, frozenset()) == []
    assert "rank 1 on n, in step 7 (read)" in told({0: here, 1: behind}, frozenset(), 60)
    assert "none behind others" in told({0: here, 1: here}, frozenset(), 60)
    assert "no sign of life" in told({0: here, 1: here}, frozenset({1}), 60)


def start(kind: str, run: Path) -> list[subprocess.Popen]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    return [
        subprocess.Popen(
            [sys.executable, SCRIPT, kind, run], env=os.environ | shared | {"RANK": str(rank)}, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        for rank in range(2)
    ]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("kind, guilty", [("reads", 1), ("stops", 1), ("stops", 0)])
def test_a_rank_that_is_stuck_is_named_and_every_stack_is_kept(tmp_path, kind, guilty):
    """Ranks that do nothing but say where they are: one reads for ever, or its process is stopped."""
    ranks = start(kind, tmp_path)
    try:
        if kind == "stops":
            while not (tmp_path / f"ready-{guilty}").exists():
                time.sleep(0.02)
            ranks[guilty].send_signal(signal.SIGSTOP)
        others = [rank for number, rank in enumerate(ranks) if number != guilty or kind == "reads"]
        said = [rank.communicate(timeout=90)[1] for rank in others]
    finally:
        for rank in ranks:
            rank.kill()
    assert [rank.returncode for rank in others] == [TEMPORARY] * len(others), said
    stacks = {path.name: path.read_text() for path in (tmp_path / "stuck").iterdir()}
    for number in range(2):
        if kind == "reads" or number != guilty:
            assert re.search(r"in (go|<module>)", stacks[f"rank-{number:05}.txt"])
    if guilty:
        where = "in step 5 .read." if kind == "reads" else "which gives no sign of life, last in step"
        assert re.search(f"the run waits for rank 1 on {socket.gethostname()}, {where}", said[0]), said


@pytest.mark.slow
def test_a_run_that_goes_on_or_has_not_begun_is_left_alone(tmp_path):
    ranks = start("goes", tmp_path)
    said = [rank.communicate(timeout=90) for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], said
    assert not (tmp_path / "stuck").exists()


@pytest.mark.slow
def test_a_run_says_where_it_is(world, dataset, four_steps, monkeypatch):
    """But in its first step, which compiles."""
    places = []
    monkeypatch.setattr(Watchdog, "at", lambda self, *place: places.append(place))
    loop.train(four_steps(dataset), world)
    steps = [[(step, phase) for phase in ("read", "compute")] for step in (1, 2, 3)]
    assert places == [*steps[0], (1, "save"), *steps[1], *steps[2], (3, "draw"), (3, "save")]
