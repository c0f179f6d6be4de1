"""A simulation that is interrupted, terminated or killed, as real processes: none stays, and nothing of theirs."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from unity.data.shards import open_shards

COMMAND = [sys.executable, "-m", "unity.data.simulate", "--frames", "5", "--size", "32", "--workers", "2"]


@pytest.fixture
def running(tmp_path, session):
    """A simulation into tmp_path/out whose two workers have begun; its session is ended at the end."""
    process = subprocess.Popen(
        [*COMMAND, "--clips", "5000", "--out", "out"], cwd=tmp_path, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    session(process.pid)
    _until(lambda: len(list(tmp_path.glob(".part-*/.part-*/*"))) >= 2, 120)
    return process


def _workers(pids):
    return [p for p in pids if b"spawn_main" in Path(f"/proc/{p}/cmdline").read_bytes()]


def _until(true, seconds):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.05)


def _said(process):
    """The lines on stderr but for the progress bar."""
    _, err = process.communicate(timeout=20)
    return [line for line in err.replace("\r", "\n").splitlines() if line.strip() and "%|" not in line]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "code", "words"),
    [
        ("Ctrl-C", 130, "simulate: interrupted"),
        ("SIGTERM", 143, None),
        ("a killed worker", 2, "simulate: a worker was ended (by SIGKILL) and nothing is written"),
        ("SIGTERM to all", 143, None),
    ],
)
def test_an_end_from_outside_is_a_sentence_and_leaves_nothing(running, session, tmp_path, how, code, words):
    assert len(_workers(session(running.pid))) == 2
    if how == "a killed worker":
        os.kill(_workers(session(running.pid))[0], signal.SIGKILL)
    elif how in ("Ctrl-C", "SIGTERM to all"):
        os.killpg(running.pid, signal.SIGINT if how == "Ctrl-C" else signal.SIGTERM)
    else:
        running.terminate()
    said = _said(running)
    # where all are terminated, a worker may be seen to end before the own signal is
    assert running.returncode == code or (how == "SIGTERM to all" and running.returncode == 2)
    assert (len(said) == 1 and said[0].startswith(words)) if words else "Traceback" not in str(said), said
    _until(lambda: not session(running.pid), 5)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_what_a_killed_run_leaves_goes_with_the_next(running, session, tmp_path):
    running.kill()
    running.wait()
    _until(lambda: not session(running.pid), 10)
    (left,) = tmp_path.iterdir()
    # of another machine, and of somebody else
    foreign = tmp_path / ".part-7-abc"
    foreign.mkdir()
    (foreign / ".writing-on-elsewhere").touch()
    done = subprocess.run(
        [*COMMAND, "--clips", "1", "--sources", "subject", "--out", str(tmp_path / "out")], capture_output=True,
        text=True, cwd="/",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert sorted(tmp_path.iterdir()) == [foreign, tmp_path / "out"]
    assert f"removing {left}, which a killed run left" in done.stderr
    assert open_shards(tmp_path / "out").counts == {"subject": 1}
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["dataset.json", "subject"]
