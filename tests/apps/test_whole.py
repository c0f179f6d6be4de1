"""The whole of it, with the shipped model: what the page makes is what the command makes, also after a SIGKILL."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from serving import Client

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


@pytest.fixture
def start(tmp_path):
    """start(): the program in a process of its own, and its client; whatever is left of it ends with the test."""
    processes = []

    def begin() -> tuple[subprocess.Popen, Client]:
        process = subprocess.Popen(
            [sys.executable, "-m", "unity.apps.web", "--port", "0", "--out", "web"],
            cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        processes.append(process)
        return process, Client(process.stdout.readline().split()[1].rstrip("/"))

    yield begin
    for process in processes:
        process.kill()
        process.wait()


def test_a_killed_program_goes_on_and_makes_what_the_command_makes(start, tmp_path, film):
    process, client = start()
    about = client.send(film.read_bytes())
    ask = {"task": "estimate", "input": about["id"], "steps": 30, "guidance": 1.0, "seed": 5}
    job = client.post("/api/jobs", ask | {"modalities": ["depth", "segmentation"]})
    while (client.get(f"/api/jobs/{job['id']}")["progress"] or {}).get("step", 0) < 3:
        time.sleep(0.05)
    children = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGKILL)
    process.wait()
    # nothing goes on computing for nobody
    psutil.wait_procs(children, timeout=60)
    assert not [child for child in children if child.is_running()]
    _, client = start()
    done = client.wait(job, seconds=300)
    assert done["state"] == "done" and os.listdir(tmp_path / "web/jobs") == [job["id"]]
    for name, record in done["results"].items():
        words = shlex.split(record["command"])
        subprocess.run(
            [sys.executable, *words[1:]], cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)}, check=True
        )
        again = json.loads((tmp_path / f"runs/again/{name}/run.json").read_text())
        assert again["files"] == record["files"]
