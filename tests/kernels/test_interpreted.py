"""The Triton kernels on the CPU, in Triton's interpreter, which must be chosen before anything imports triton."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent / "interpreted"


@pytest.mark.parametrize("which", ["not slow", pytest.param("slow", marks=pytest.mark.slow)])
def test_kernels_in_the_interpreter(which):
    environment = {**os.environ, "TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""}
    files = sorted(FOLDER.glob("check_*.py"))
    # one process for all: the imports take longer than the checks
    command = [sys.executable, "-m", "pytest", "-q", "--no-header", "-p", "no:cacheprovider", "-m", which, *files]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=FOLDER.parents[2])
    assert files and run.returncode == 0, run.stdout[-6000:] + run.stderr[-2000:]
