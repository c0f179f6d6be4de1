"""Ranks that never come are named by those that did, in a sentence."""

import os
import socket
import subprocess
import sys
from pathlib import Path

from unity.train.meeting import TEMPORARY

SCRIPT = Path(__file__).with_name("arrive.py")


def arrive(rank: int, size: int, port: int, patience: float) -> subprocess.CompletedProcess:
    places = {"RANK": rank, "WORLD_SIZE": size, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return subprocess.run(
        [sys.executable, SCRIPT, str(patience)], env=os.environ | {k: str(v) for k, v in places.items()},
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip


def test_ranks_that_never_come_are_named():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    alone = arrive(0, 3, port, 1)
    assert alone.returncode == TEMPORARY
    assert f"2 of 3 ranks never came (1, 2), only those on {socket.gethostname()} within 1 s" in alone.stderr
    lost = arrive(2, 3, port, 1)
    assert lost.returncode == TEMPORARY and f"did not reach rank 0 at 127.0.0.1:{port}" in lost.stderr


def test_a_launcher_that_names_no_place_is_told():
    told = subprocess.run(
        [sys.executable, SCRIPT, "1"], env=os.environ | {"RANK": "0", "WORLD_SIZE": "2", "MASTER_PORT": ""},
        capture_output=True, text=True,
    )  # fmt: skip
    assert "MASTER_ADDR and MASTER_PORT do not say where" in told.stderr
