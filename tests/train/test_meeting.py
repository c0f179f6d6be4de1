"""Ranks that never come are named by those that did, in a sentence."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from unity.train.meeting import TEMPORARY, meet
from unity.train.submit.after import decide
from unity.train.submit.script import AGAIN
from unity.train.world import World, told_once

SCRIPT = Path(__file__).with_name("arrive.py")


def arrive(rank: int, size: int, port: int, patience: float) -> subprocess.CompletedProcess:
    places = {"RANK": rank, "WORLD_SIZE": size, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return subprocess.run(
        [sys.executable, SCRIPT, str(patience)], env=os.environ | {k: str(v) for k, v in places.items()},
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip


@pytest.mark.slow
def test_ranks_that_never_come_are_named():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    alone = arrive(0, 3, port, 1)
    assert alone.returncode == TEMPORARY
    assert f"2 of 3 ranks never came (1, 2), only those on {socket.gethostname()} within 1 s" in alone.stderr
    lost = arrive(2, 3, port, 1)
    assert lost.returncode == TEMPORARY and f"did not reach rank 0 at 127.0.0.1:{port}" in lost.stderr


@pytest.mark.parametrize("port", ["", "0"])
def test_a_launcher_that_names_no_place_is_told(port, monkeypatch):
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", port)
    with pytest.raises(ValueError, match="MASTER_ADDR and MASTER_PORT do not say where"):
        meet(0, 2)


def test_ranks_that_lost_another_are_handed_in_again(tmp_path, capsys):
    """Where a machine goes down, no rank is left that says more than that."""
    for rank in range(2):
        world = World(rank=rank, size=3, local_rank=rank, device=torch.device("cpu"))
        with pytest.raises(SystemExit) as left, told_once(world):
            raise RuntimeError("[gloo/transport/tcp/pair.cc:547] Connection closed by peer [10.0.0.2]:4711")
        assert left.value.code == TEMPORARY
        assert f"train: rank {rank} lost another process of the run" in capsys.readouterr().err
    (tmp_path / "slurm").mkdir()
    (tmp_path / "slurm/submission.json").write_text('{"job": {"retries": 1}}')
    assert decide(tmp_path, TEMPORARY, False)[0] == AGAIN
