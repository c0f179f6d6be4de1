import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_a_modality_and_a_task_more_are_a_row_each(tmp_path):
    """They are stored, trained, examined and inferred with no other line of the project changed."""
    script = Path(__file__).with_name("one_more.py")
    done = subprocess.run([sys.executable, script, tmp_path], capture_output=True, text=True)
    assert done.returncode == 0 and "one more of each" in done.stdout, done.stdout + done.stderr
