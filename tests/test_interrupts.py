"""Ctrl-C while a command still imports: one line, code 130, and nothing written."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
COMMANDS = {
    "infer": ["-m", "unity.infer", "--modality", "flow"],
    "evaluate": ["-m", "unity.evaluate", "--data", "data"],
    "simulate": ["-m", "unity.data.simulate", "--out", "data"],
    "web": ["-m", "unity.apps.web"],
    "csv_clips": ["-m", "unity.data.csv_clips", "--csv", "a.csv", "--source", "general", "--out", "data"],
    "train": [ROOT / "launchers/train.py", "--stage", "1"],
    "demo": [ROOT / "launchers/demo.py", "--out", "demo"],
}


@pytest.mark.parametrize("name", COMMANDS)
def test_interrupted_while_it_imports(name, tmp_path):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, *map(str, COMMANDS[name])], cwd=tmp_path, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    libraries = Path(f"/proc/{process.pid}/maps")
    # numpy is among the first of what takes long
    while "numpy" not in libraries.read_text():
        assert process.poll() is None, process.communicate()
        time.sleep(0.001)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in said, said
    assert said.splitlines()[-1].startswith(f"{name}: interrupted")
    assert not list(tmp_path.iterdir())
