"""The whole model under torch.compile: one graph forward and backward, and the same numbers."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_no_graph_break():
    script = Path(__file__).with_name("compiled.py")
    run = subprocess.run([sys.executable, script], capture_output=True, text=True)
    assert run.stdout.splitlines() == ["one graph, fp8 False", "one graph, fp8 True"], run.stderr[-3000:]
