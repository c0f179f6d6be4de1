"""From films to shards by the commands, each killed twice and given again: the bytes of a run left alone."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from unity.data.video import write_video
from unity.files import sha256

pytest.importorskip("ray", reason="extra data")
pytestmark = pytest.mark.slow

CURATE = ["unity.data.curate", "{films}", "--out", "curated", "--filters", "black", "frozen"]
ANNOTATE = ["unity.data.annotate", "curated", "--out", "data", "--frames", "9", "--size", "64", "--fps", "8"]


@pytest.fixture
def films(tmp_path):
    folder = tmp_path / "films"
    for seed in range(6):
        noise = np.random.default_rng(seed).uniform(0, 255, (20, 40, 3)).astype(np.float32)
        whole = cv2.resize(noise, (320, 160), interpolation=cv2.INTER_CUBIC).clip(0, 255).astype(np.uint8)
        write_video(np.stack([whole[:128, 2 * t :][:, :160] for t in range(24)]), folder / f"{seed}.mp4", 8.0)
    (folder / "torn.mp4").write_bytes((folder / "0.mp4").read_bytes()[:500])
    return folder


def _start(words: list[str], films: Path, here: Path) -> subprocess.Popen:
    environment = os.environ | {"RAY_worker_niceness": "0", "PYTHONPATH": str(Path.cwd())}
    command = [sys.executable, "-m", *(word.format(films=films) for word in words), "--workers", "1"]
    options = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True, "start_new_session": True}
    return subprocess.Popen(command, cwd=here, env=environment, **options)


def _killed(words: list[str], films: Path, here: Path, results: Path, count: int = 1) -> None:
    """Kill it, with all that it started, when so many results are written."""
    process, until = _start(words, films, here), time.monotonic() + 400
    while process.poll() is None and _written(results) < count and time.monotonic() < until:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL and _written(results) >= count


def _written(results: Path) -> int:
    return len(list(results.glob("*.parquet")))


def _whole(words: list[str], films: Path, here: Path) -> None:
    process = _start(words, films, here)
    said = process.communicate(timeout=500)[1]
    assert process.returncode == 0, said


def _bytes(folder: Path) -> dict[str, str]:
    files = (file for file in folder.rglob("*") if file.is_file() and "work" not in file.relative_to(folder).parts)
    return {str(file.relative_to(folder)): sha256(file) for file in files}


def test_commands_that_are_killed_give_the_same_bytes(films, tmp_path):
    killed, alone = tmp_path / "killed", tmp_path / "alone"
    for here in (killed, alone):
        here.mkdir()
    _whole(CURATE, films, alone)
    _whole(ANNOTATE, films, alone)
    _killed(CURATE, films, killed, killed / "curated/work/cuts/out")
    _killed(CURATE, films, killed, killed / "curated/work/scores/out")
    _whole(CURATE, films, killed)
    assert _bytes(killed / "curated") == _bytes(alone / "curated")
    _killed(ANNOTATE, films, killed, killed / "data.work/out")
    _killed(ANNOTATE, films, killed, killed / "data.work/out", 3)
    assert not (killed / "data").exists()
    _whole(ANNOTATE, films, killed)
    told = json.loads((killed / "data/annotations.json").read_text())
    assert (told["clips"], told["available"], told["wordless"]) == (6, {"flow": 6}, 6)
    found = _bytes(killed / "data")
    assert found == _bytes(alone / "data") and {"dataset.json", "annotations.jsonl", "views.png"} <= found.keys()
