"""Ray Data as the engine: rows that fail, that end their process, and jobs that are killed on the way."""

import os
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


def _start(script: Path) -> subprocess.Popen:
    environment = os.environ | {"RAY_worker_niceness": "0", "PYTHONPATH": f"{script.parent}:{Path.cwd()}"}
    return subprocess.Popen(
        [sys.executable, str(script)], env=environment, stdout=subprocess.PIPE, text=True, start_new_session=True
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
