"""Ray Data as the engine: rows that fail, that end their process, and jobs that are killed on the way."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from filelock import FileLock

pytest.importorskip("ray", reason="extra data")
pytestmark = pytest.mark.slow

from unity.data import engine  # noqa: E402

JOB = """
import os, sys, time
from pathlib import Path
from unity.data import engine

def make(factor, pause):
    def work(name, record):
        with open({log!r}, "a") as log:
            log.write(name + "\\n")
        time.sleep(pause)
        if name == "r03":
            raise ValueError("it is bad")
        if name == "r05" and not os.path.exists({mended!r}):
            os.kill(os.getpid(), 9)
        return {{"twice": factor * record["number"]}}, name.encode()
    return work

if __name__ == "__main__":
    rows = {{f"r{{i:02}}": {{"number": i}} for i in range(8)}}
    left = engine.run(Path({folder!r}), rows, make, {{"factor": 2, "pause": 1.0}}, engine.Cluster(workers=1))
    print(sorted(left))
"""


def _start(script: Path, **pipes: int) -> subprocess.Popen:
    environment = os.environ | {"RAY_worker_niceness": "0", "PYTHONPATH": f"{script.parent}:{Path.cwd()}"}
    pipes = {"stdout": subprocess.PIPE} | pipes
    return subprocess.Popen(
        [sys.executable, str(script)], env=environment, text=True, start_new_session=True, **pipes
    )


def test_what_was_written_is_not_done_again(tmp_path):
    folder, log, mended = tmp_path / "stage", tmp_path / "log", tmp_path / "mended"
    folder.mkdir()
    script = tmp_path / "job_of_rows.py"
    script.write_text(JOB.format(folder=str(folder), log=str(log), mended=str(mended)))
    first = _start(script)
    until = time.monotonic() + 300
    while len(list((folder / "out").glob("*.parquet"))) < 2 and first.poll() is None and time.monotonic() < until:
        time.sleep(0.2)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    kept = {name for name, _ in engine.records(folder)}
    assert 2 <= len(kept) < 8
    # what a write that was killed looks like
    (folder / "out" / "torn.parquet").write_bytes(b"PAR1 and no end")
    log.write_text("")
    second = _start(script)
    # Ray speaks between our lines
    assert "['r05']" in second.communicate(timeout=500)[0].splitlines()
    again = log.read_text().split()
    assert not kept & set(again) and again.count("r05") == 3 and len(again) == len(set(again)) + 2
    mended.touch()
    log.write_text("")
    third = _start(script)
    assert "[]" in third.communicate(timeout=500)[0].splitlines()
    assert log.read_text().split() == ["r05"]
    wanted = [(f"r{i:02}", {"twice": 2 * i}, f"r{i:02}".encode()) for i in range(8)]
    wanted[3] = ("r03", {"error": "it is bad"}, b"")
    assert list(engine.results(folder)) == wanted
    with pytest.raises(ValueError, match="was begun with factor 2, and now it is 3"):
        engine.run(folder, {}, lambda: None, {"factor": 3, "pause": 1.0}, engine.Cluster())
    with (
        FileLock(folder / "lock"),
        pytest.raises(ValueError, match="another job is at work"),
    ):
        engine.run(folder, {}, lambda: None, {"factor": 2, "pause": 1.0}, engine.Cluster())


FULL = """
import random
from pathlib import Path
from unity.command import end
from unity.data import engine

def make():
    def work(name, record):
        with open({log!r}, "a") as log:
            log.write(name + "\\n")
        return {{}}, random.Random(name).randbytes(300_000)
    return work

if __name__ == "__main__":
    rows = {{f"r{{i}}": {{}} for i in range(6)}}
    end("job", lambda: print(engine.run(Path({folder!r}), rows, make, {{}}, engine.Cluster(workers=1))))
"""


@pytest.fixture
def small_disk(tmp_path):
    """A disk of a megabyte, and what makes it larger."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", disk], capture_output=True).returncode:
        pytest.skip("this user may mount no disk")
    yield disk, lambda: subprocess.run(["mount", "-o", "remount,size=200m", disk], check=True)
    subprocess.run(["umount", "-l", disk], check=True)


def test_a_full_disk_costs_nothing_that_is_written(small_disk, tmp_path):
    disk, enlarge = small_disk
    folder, log, script = disk / "stage", tmp_path / "log", tmp_path / "job_of_bytes.py"
    script.write_text(FULL.format(folder=str(folder), log=str(log)))
    first = _start(script, stderr=subprocess.PIPE)
    said = first.communicate(timeout=500)[1].splitlines()[-1]
    kept = {name for name, _ in engine.records(folder)}
    assert first.returncode == 2 and 1 <= len(kept) < 6
    assert said.startswith(f"job: {6 - len(kept)} of 6 are not done: the disk of {folder} has")
    assert said.endswith("make room there, or give another folder. What is done is kept; the same command goes on")
    enlarge()
    log.write_text("")
    second = _start(script, stderr=subprocess.PIPE)
    assert "{}" in second.communicate(timeout=500)[0].splitlines()
    assert sorted(log.read_text().split()) == sorted({f"r{i}" for i in range(6)} - kept)
    wanted = [(f"r{i}", {}, random.Random(f"r{i}").randbytes(300_000)) for i in range(6)]
    assert list(engine.results(folder)) == wanted
